"""What a served model is asked, one module for each request."""
