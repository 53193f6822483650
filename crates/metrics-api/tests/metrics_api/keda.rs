//! KEDA is told whether a service has anything to do, and how much.

use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::time::timeout;
use tonic::codec::Streaming;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use wharf_api::demand::ServiceDemand;
use wharf_metrics_api::Api;
use wharf_metrics_api::scaler::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, ScaledObjectRef, method,
};

use crate::support::{FakeGateway, SOON, Text, World, until};

/// A client as KEDA's.
struct Keda(Channel);

impl Keda {
    async fn of(world: &World) -> Keda {
        Keda(Endpoint::from_shared(format!("http://{}", world.scaler)).unwrap().connect().await.unwrap())
    }

    async fn call<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(self.0.clone());
        grpc.ready().await.unwrap();
        let codec = ProstCodec::<Q, A>::default();
        Ok(grpc.unary(Request::new(question), PathAndQuery::from_static(path), codec).await?.into_inner())
    }

    async fn follow(&self, question: ScaledObjectRef) -> Streaming<IsActiveResponse> {
        let mut grpc = tonic::client::Grpc::new(self.0.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static(method::STREAM_IS_ACTIVE);
        let codec = ProstCodec::<ScaledObjectRef, IsActiveResponse>::default();
        grpc.server_streaming(Request::new(question), path, codec).await.unwrap().into_inner()
    }

    async fn value(&self, metric: &str) -> Result<f64, Status> {
        let request =
            GetMetricsRequest { scaled_object_ref: Some(trigger(metric)), metric_name: metric.to_owned() };
        let answer: GetMetricsResponse = self.call(method::GET_METRICS, request).await?;
        Ok(answer.metric_values[0].metric_value_float)
    }
}

/// The trigger of a ScaledObject that `wharf render` writes.
fn trigger(metric: &str) -> ScaledObjectRef {
    let metadata = [("service", "assistant"), ("metric", metric), ("target", "2")];
    ScaledObjectRef {
        name: "assistant".to_owned(),
        namespace: "demo".to_owned(),
        scaler_metadata: metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_service_wakes_the_moment_somebody_waits() {
    let world = World::start(&[Api::Custom]).await;
    let gateway = FakeGateway::start("one").await;
    world.component("gateway", "one", gateway.address).await;
    gateway.say("assistant", ServiceDemand::default());
    let keda = Keda::of(&world).await;
    let mut stream = keda.follow(trigger("requests_running")).await;
    assert!(!stream.message().await.unwrap().unwrap().result, "nobody has asked for anything");

    gateway.say("assistant", ServiceDemand { queued: 1, arrived: 1, ..ServiceDemand::default() });
    let told = timeout(SOON, stream.message()).await.expect("it is told").unwrap().unwrap();
    assert!(told.result);
    let active: IsActiveResponse = keda.call(method::IS_ACTIVE, trigger("requests_running")).await.unwrap();
    assert!(active.result);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_of_all_replicas_together() {
    let world = World::start(&[Api::Custom]).await;
    let gateway = FakeGateway::start("one").await;
    world.component("gateway", "one", gateway.address).await;
    let keda = Keda::of(&world).await;
    let error = keda.value("requests_running").await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(error.message().contains("demo/assistant"), "{error}");

    gateway.say("assistant", ServiceDemand { in_flight: 5, queued: 2, ..ServiceDemand::default() });
    until("the gateway is heard", async || {
        keda.value("requests_running").await.is_ok_and(|value| value == 7.0)
    })
    .await;
    assert_eq!(keda.value("requests_waiting").await.unwrap(), 2.0);
    let spec: GetMetricSpecResponse =
        keda.call(method::GET_METRIC_SPEC, trigger("requests_running")).await.unwrap();
    assert_eq!(spec.metric_specs[0].target_size_float, 2.0);

    let of = |pod: &str| {
        format!("DCGM_FI_DEV_GPU_UTIL{{container=\"server\",namespace=\"demo\",pod=\"{pod}\"}} 40\n")
    };
    let agent = Text::serve(&(of("a") + &of("b"))).await;
    world.component("node-agent", "agent", agent.address).await;
    world.pod("a", agent.address).await;
    world.pod("b", agent.address).await;
    until("the pods are seen", async || keda.value("gpu_utilization").await.is_ok_and(|value| value == 80.0))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keda_is_told_what_is_wrong_with_a_trigger() {
    let world = World::start(&[Api::Custom]).await;
    let keda = Keda::of(&world).await;
    let asked: Result<GetMetricSpecResponse, Status> =
        keda.call(method::GET_METRIC_SPEC, trigger("nonsense")).await;
    let error = asked.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("tokens_in_flight"), "{error}");
    let asked: Result<GetMetricSpecResponse, Status> =
        keda.call("/externalscaler.ExternalScaler/StreamMetricSpec", trigger("requests_running")).await;
    assert_eq!(asked.unwrap_err().code(), Code::Unimplemented);
    let mut stream = keda.follow(trigger("")).await;
    let told = timeout(Duration::from_secs(30), stream.message()).await.unwrap();
    assert_eq!(told.unwrap_err().code(), Code::InvalidArgument);
}
