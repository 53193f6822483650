//! Answers of the three APIs. Who may ask is [`crate::guard`]'s to say, what a path means [`crate::apis`]'s, what there is [`crate::sources`]'.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use jiff::Timestamp;
use kube::core::Selector;
use serde_json::{Value, json};
use wharf_listen::PeerCertificate;
use wharf_telemetry::metrics::{Metrics, metrics_api as table};

use crate::apis::{self, Api, Kind, Route, of_external, route};
use crate::escape::unescaped;
use crate::guard::{Guard, Verdict};
use crate::history::WINDOW;
use crate::metric::{self, Needs, quantity};
use crate::prometheus::QueryError;
use crate::selector;
use crate::sources::{Of, Sources};

/// Answers requests of the API server.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) guard: Arc<Guard>,
    pub(crate) sources: Arc<Sources>,
    pub(crate) metrics: Arc<Metrics>,
    /// APIs that are served, whoever owns them.
    pub(crate) apis: Arc<[Api]>,
}

/// What is answered instead of values.
struct Refusal(StatusCode, String);

type Answer = Result<Value, Refusal>;

impl Server {
    /// Answers one request.
    pub(crate) async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let path = request.uri().path().to_owned();
        let asked = route(&path);
        if asked == Route::Health {
            return Ok(Response::new(Full::from("ok")));
        }
        let answered = match self.admit(&request, &path).await {
            Ok(()) => self.look_up(asked, request.uri().query().unwrap_or_default()).await,
            Err(refusal) => Err(refusal),
        };
        let (status, body) = match answered {
            Ok(body) => (StatusCode::OK, body),
            Err(Refusal(status, message)) => (status, failure(status, &message)),
        };
        self.metrics.add(&table::REQUESTS, &[api_of(&path), status.as_str()], 1.0);
        let mut response = Response::new(Full::from(body.to_string()));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }

    async fn admit(&self, request: &Request<Incoming>, path: &str) -> Result<(), Refusal> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return Err(Refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "metrics are read, and nothing else".to_owned(),
            ));
        }
        let certificate = request.extensions().get::<PeerCertificate>();
        let attributes = apis::attributes(path, "get");
        let judged = self.guard.judge(
            certificate.map(|peer| peer.0.as_ref().as_ref()),
            request.headers(),
            &attributes,
        );
        match judged.await {
            Ok(Verdict::Allowed) => Ok(()),
            Ok(Verdict::Unknown) => Err(Refusal(StatusCode::UNAUTHORIZED, "Unauthorized".to_owned())),
            Ok(Verdict::Forbidden(user, why)) => {
                let why = if why.is_empty() { why } else { format!(": {why}") };
                Err(Refusal(StatusCode::FORBIDDEN, format!("{user} may not read {path}{why}")))
            }
            Err(error) => {
                let error = wharf_telemetry::log::chain(&error);
                tracing::warn!(error, path, "the cluster did not say who may read metrics");
                Err(Refusal(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("the cluster did not say who may: {error}"),
                ))
            }
        }
    }

    async fn look_up(&self, asked: Route, query: &str) -> Answer {
        let select = |key: &str| {
            selector::parse(&parameter(query, key)).map_err(|why| Refusal(StatusCode::BAD_REQUEST, why))
        };
        let labels = select("labelSelector")?;
        match asked {
            Route::Groups => Ok(apis::groups(&self.apis)),
            Route::Group(api) if self.serves(api) => Ok(apis::group(api)),
            Route::Resources(api) if self.serves(api) => Ok(apis::resources(api)),
            Route::OpenApiV2 => Ok(apis::open_api_v2()),
            Route::OpenApiV3 => Ok(apis::open_api_v3(&self.apis)),
            Route::OpenApiOf(api) if self.serves(api) => Ok(apis::open_api_of(api)),
            Route::Custom { namespace, kind, name, metric } if self.serves(Api::Custom) => {
                let of_metric = select("metricLabelSelector")?;
                self.custom((&namespace, kind, name.as_deref()), &metric, &labels, &of_metric).await
            }
            Route::External { namespace, metric } if self.serves(Api::External) => {
                self.external(&namespace, &metric, &labels).await
            }
            Route::Nodes { name } => self.nodes(name.as_deref(), &labels).await,
            Route::Pods { namespace, name } => {
                self.pods(namespace.as_deref(), name.as_deref(), &labels).await
            }
            _ => Err(Refusal(
                StatusCode::NOT_FOUND,
                "the server could not find the requested resource".to_owned(),
            )),
        }
    }

    fn serves(&self, api: Api) -> bool {
        self.apis.contains(&api)
    }

    async fn custom(
        &self,
        (namespace, kind, name): (&str, Kind, Option<&str>),
        metric: &str,
        labels: &Selector,
        of_metric: &Selector,
    ) -> Answer {
        let unknown =
            || Refusal(StatusCode::NOT_FOUND, format!("there is no metric {metric} of these objects"));
        let (needs, mut values) = match kind {
            Kind::Pod => match metric::find(metric::POD, metric) {
                Some(metric) => (metric.needs, self.sources.of_pods(metric, namespace, name, labels).await),
                None => {
                    let foreign = self.sources.foreign_of_pods(metric, namespace, name, labels).await;
                    (Needs::Gauge, foreign.ok_or_else(unknown)?.map_err(unanswered)?)
                }
            },
            Kind::Service => {
                let metric = metric::find(metric::SERVICE, metric).ok_or_else(unknown)?;
                let of = |name: String| {
                    let load = self.sources.services.load(&format!("{namespace}/{name}"))?;
                    Some(Of { value: (metric.value)(&load)?, name })
                };
                let names = self.sources.service_names(namespace, name, labels).into_iter();
                (metric.needs, names.filter_map(of).collect())
            }
        };
        if !is_unlabelled(of_metric) {
            values.clear();
        }
        if let (Some(name), true) = (name, values.is_empty()) {
            return Err(Refusal(
                StatusCode::NOT_FOUND,
                format!("{name} has no value of {metric} at the moment"),
            ));
        }
        let (kind, version) = match kind {
            Kind::Pod => ("Pod", "v1"),
            Kind::Service => ("LLMService", wharf_spec::API_VERSION),
        };
        let timestamp = now();
        let item = |Of { name, value }: &Of| {
            let mut item = json!({
                "describedObject": {"kind": kind, "namespace": namespace, "name": name, "apiVersion": version},
                "metric": {"name": metric, "selector": null}, "timestamp": timestamp, "value": quantity(*value),
            });
            if needs == Needs::Rate {
                item["windowSeconds"] = WINDOW.as_secs().into();
            }
            item
        };
        let items: Vec<Value> = values.iter().map(item).collect();
        Ok(list("MetricValueList", Api::Custom, items))
    }

    /// One value for each service, labelled with its name.
    async fn external(&self, namespace: &str, name: &str, labels: &Selector) -> Answer {
        use kube::core::SelectorExt;
        let timestamp = now();
        let Some(metric) = of_external(name).and_then(|name| metric::find(metric::SERVICE, name)) else {
            let unknown = || Refusal(StatusCode::NOT_FOUND, format!("there is no metric {name}"));
            let prometheus = self.sources.prometheus.as_ref().ok_or_else(unknown)?;
            let series = prometheus.by_labels(name, namespace, labels).await.map_err(unanswered)?;
            let item = |(labels, value): (BTreeMap<String, String>, f64)| json!({"metricName": name, "metricLabels": labels, "timestamp": timestamp, "value": quantity(value)});
            let items = series.into_iter().map(item).collect();
            return Ok(list("ExternalMetricValueList", Api::External, items));
        };
        let of = |service: String| {
            let own = [("service".to_owned(), service.clone())].into();
            if !labels.matches(&own) {
                return None;
            }
            let load = self.sources.services.load(&format!("{namespace}/{service}"))?;
            let mut item = json!({
                "metricName": name, "metricLabels": own, "timestamp": timestamp, "value": quantity((metric.value)(&load)?),
            });
            if metric.needs == Needs::Rate {
                item["window"] = WINDOW.as_secs().into();
            }
            Some(item)
        };
        let items: Vec<Value> = self.sources.services.names(namespace).into_iter().filter_map(of).collect();
        Ok(list("ExternalMetricValueList", Api::External, items))
    }

    async fn nodes(&self, name: Option<&str>, labels: &Selector) -> Answer {
        let resources = self.resources()?;
        let items = resources.nodes(&self.sources, name, labels, &now()).await;
        one_or_all(name, items, "NodeMetrics")
    }

    async fn pods(&self, namespace: Option<&str>, name: Option<&str>, labels: &Selector) -> Answer {
        let resources = self.resources()?;
        let items = resources.pods(&self.sources, (namespace, name), labels, &now()).await;
        one_or_all(name, items, "PodMetrics")
    }

    fn resources(&self) -> Result<&crate::sources::Resources, Refusal> {
        let missing = || Refusal(StatusCode::NOT_FOUND, "metrics.k8s.io is not served here".to_owned());
        self.sources.resources.as_ref().ok_or_else(missing)
    }
}

fn unanswered(error: QueryError) -> Refusal {
    Refusal(StatusCode::SERVICE_UNAVAILABLE, wharf_telemetry::log::chain(&error))
}

/// Metrics have no labels of their own.
fn is_unlabelled(selector: &Selector) -> bool {
    use kube::core::SelectorExt;
    selector.matches(&BTreeMap::new())
}

fn one_or_all(name: Option<&str>, items: Vec<Value>, kind: &str) -> Answer {
    let version = Api::Resource.group_version();
    let Some(name) = name else { return Ok(list(&format!("{kind}List"), Api::Resource, items)) };
    let mut item = items.into_iter().next();
    match item.as_mut() {
        Some(item) => {
            item["kind"] = kind.into();
            item["apiVersion"] = version.into();
            Ok(item.take())
        }
        None => Err(Refusal(StatusCode::NOT_FOUND, format!("there is nothing known of {name} yet"))),
    }
}

fn list(kind: &str, api: Api, items: Vec<Value>) -> Value {
    json!({"kind": kind, "apiVersion": api.group_version(), "metadata": {}, "items": items})
}

/// A `Status`, as every API of Kubernetes answers what it cannot do.
fn failure(status: StatusCode, message: &str) -> Value {
    let reason = match status {
        StatusCode::BAD_REQUEST => "BadRequest",
        StatusCode::UNAUTHORIZED => "Unauthorized",
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowed",
        _ => "ServiceUnavailable",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": status.as_u16(),
    })
}

/// The group that a path is of, for our own metrics.
fn api_of(path: &str) -> &'static str {
    let of = |api: &&Api| path.starts_with(&format!("/apis/{}/", api.group()));
    Api::ALL.iter().find(of).map_or("discovery", |api| api.name())
}

fn now() -> String {
    Timestamp::now().round(jiff::Unit::Second).unwrap_or_else(|_| Timestamp::now()).to_string()
}

/// A parameter of a query, decoded; nothing if it is not there.
fn parameter(query: &str, key: &str) -> String {
    let pair = query.split('&').find_map(|pair| pair.split_once('=').filter(|(name, _)| *name == key));
    pair.map_or_else(String::new, |(_, value)| unescaped(&value.replace('+', " ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_decoded() {
        assert_eq!(
            parameter("a=b&labelSelector=wharf.dev%2Fservice%3Dx%2Ctier+in+%28a%29", "labelSelector"),
            "wharf.dev/service=x,tier in (a)"
        );
        assert_eq!(parameter("a=b", "labelSelector"), "");
    }
}
