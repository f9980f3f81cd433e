"""Reports: figures, evaluations and notes kept from any page, in an order, with captions, as one file."""
