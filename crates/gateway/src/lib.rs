//! One endpoint for all models: the HTTP proxy and the Envoy endpoint picker, two fronts of routing.
