"""Figures for print: widths of a paper's columns, readable type, and readable without colour."""
