//! How many replicas there should be: pure decisions, the loop around them, and a simulator.
