"""What a study's records say: tables, fitted laws, figures, words and the report. Reads records; builds nothing."""
