"""What people touch: the `moescope` command, the Streamlit pages and the figures."""
