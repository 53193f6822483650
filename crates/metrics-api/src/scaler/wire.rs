//! Messages and calls of `externalscaler.proto` (KEDA 2).

use std::collections::HashMap;

/// Paths of the calls.
pub mod method {
    /// Whether there is something to do.
    pub const IS_ACTIVE: &str = "/externalscaler.ExternalScaler/IsActive";
    /// The same, and whenever it changes.
    pub const STREAM_IS_ACTIVE: &str = "/externalscaler.ExternalScaler/StreamIsActive";
    /// Metrics and their targets.
    pub const GET_METRIC_SPEC: &str = "/externalscaler.ExternalScaler/GetMetricSpec";
    /// Values.
    pub const GET_METRICS: &str = "/externalscaler.ExternalScaler/GetMetrics";
}

/// A ScaledObject, and what its trigger says.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ScaledObjectRef {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// The trigger's metadata.
    #[prost(map = "string, string", tag = "3")]
    pub scaler_metadata: HashMap<String, String>,
}

/// Whether there is something to do.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IsActiveResponse {
    /// Whether.
    #[prost(bool, tag = "1")]
    pub result: bool,
}

/// Metrics and their targets.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetMetricSpecResponse {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub metric_specs: Vec<MetricSpec>,
}

/// A metric and its target for one replica.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricSpec {
    /// Its name.
    #[prost(string, tag = "1")]
    pub metric_name: String,
    /// Its target, for a KEDA that knows no other.
    #[prost(int64, tag = "2")]
    pub target_size: i64,
    /// Its target.
    #[prost(double, tag = "3")]
    pub target_size_float: f64,
}

/// Asks for values.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetMetricsRequest {
    /// Of which.
    #[prost(message, optional, tag = "1")]
    pub scaled_object_ref: Option<ScaledObjectRef>,
    /// The metric.
    #[prost(string, tag = "2")]
    pub metric_name: String,
}

/// Values.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetMetricsResponse {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub metric_values: Vec<MetricValue>,
}

/// A value, of all replicas together.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricValue {
    /// The metric.
    #[prost(string, tag = "1")]
    pub metric_name: String,
    /// The value, for a KEDA that knows no other.
    #[prost(int64, tag = "2")]
    pub metric_value: i64,
    /// The value.
    #[prost(double, tag = "3")]
    pub metric_value_float: f64,
}
