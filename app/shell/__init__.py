"""The frame around every page: navigation, the bar on top, links, messages."""
