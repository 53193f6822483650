//! Development only: an operator on an API server in memory with a service and a Model and nobody who runs their pods, for `cargo xtask
//! verify-monitoring` and whoever else wants to read its metrics. Its first line of output is where they are.

use std::error::Error;
use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use wharf_fakes::stage::Stage;
use wharf_operator::{Operator, Options, run};

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    let metadata = json!({"name": name, "namespace": "demo"});
    json!({"apiVersion": "wharf.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Stage::start().await;
    for crd in wharf_spec::crd::crds() {
        cluster.seed(crd).await;
    }
    cluster.seed(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}})).await;
    let gate = json!({"quantize": "q8_0", "gate": {"maxPerplexityIncrease": "2%"}});
    cluster.seed(object("Model", "small", &json!({"source": "hf://owner/small", "optimize": gate}))).await;
    let service = json!({
        "model": {"source": "hf://owner/repo"}, "scaling": {"min": 1, "max": 3}, "observability": {"alerts": {}},
    });
    cluster.seed(object("LLMService", "assistant", &service)).await;

    let options = Options { beat: Duration::from_millis(50), ..Options::default() };
    let operator = Operator::new(cluster.client(), options);
    let socket = TcpListener::bind(("127.0.0.1", 0)).await?;
    writeln!(std::io::stdout(), "{}", socket.local_addr()?)?;
    let (_keeps_it, stop) = watch::channel(false);
    tokio::spawn(operator.side.clone().serve(socket, stop));
    run(operator).await?;
    Ok(())
}
