//! Which endpoint a request goes to: scores, prefix index, breakers; pure.
