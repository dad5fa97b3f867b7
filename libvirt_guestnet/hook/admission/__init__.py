"""What refuses a start by name: NICs, taps, addresses, MTUs."""
