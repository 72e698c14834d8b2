"""Publishing: a data set folder becomes a data set on the Hugging Face Hub."""
