"""The forecaster and what judges it. Importing this package never loads TensorFlow."""
