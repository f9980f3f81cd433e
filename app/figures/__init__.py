"""Figures: functions from tables to Altair charts. They know nothing of Streamlit, files or models."""

import altair as alt

# Altair refuses tables of more than 5,000 rows by default; one map of 58 x 256 cells has 14,848.
alt.data_transformers.disable_max_rows()
