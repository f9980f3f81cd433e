"""What stands around every page: navigation, the bar on top, links, messages."""
