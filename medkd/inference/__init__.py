"""Model folders and prediction on whole scans."""
