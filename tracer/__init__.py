"""Runs models: finds routers, records routing events, steers."""
