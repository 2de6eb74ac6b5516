"""The services of OTP that a node must offer, such as `net_kernel`, `rex` and `global`."""
