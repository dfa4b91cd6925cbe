"""A recommender over HTTP."""

KEY = "RECBOLE_RA_API_KEY"
"""Environment variable with the API key."""
