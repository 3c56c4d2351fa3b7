"""What is asked and answered: tensors, operations, results. No I/O and no clock."""
