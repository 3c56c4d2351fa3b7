"""What is remembered of requests and answers, and the fast way to repeat one; half of it in C."""
