"""How far apart responses are (paper §4.2.2, eq. 7): encoders, and the labelled pairs that set the threshold."""
