"""How good the samples are and how straight the flow is: numbers with a truth to compare with."""
