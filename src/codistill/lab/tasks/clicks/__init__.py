"""Predicting whether something happens, such as a click, from hashed categories and numbers."""
