//! A simulator that drives the same picking as the gateway.
