"""The pages, a file each with one function `page()`.

The folder is not called `pages`: Streamlit takes a folder of that name beside the entry script for its
older kind of multi-page app and runs the wrong script in the first session.
"""
