//! Development only: what Wharf talks to, in memory: a Kubernetes API server and model servers.
