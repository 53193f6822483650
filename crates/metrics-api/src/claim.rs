//! Whether an API is ours to serve. The cluster has one owner of each, and it is never taken from another. [`claim`] decides; [`hold`] is the
//! I/O.

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api as Objects, Client};
use serde_json::{Value, json};

use crate::apis::Api;

/// Who owns the fields that are written.
const MANAGER: &str = "wharf-metrics-api";

/// Where this server is, as the API server finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// Namespace of its Service and of its Secret.
    pub namespace: String,
    /// Name of its Service.
    pub service: String,
    /// Port of the Service.
    pub port: u16,
    /// A cluster-wide object with which its APIServices go: an APIService without a server breaks discovery for everybody. `Kind/name`, of
    /// `rbac.authorization.k8s.io/v1`.
    pub owner: Option<(String, String)>,
}

/// What becomes of an API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is ours, and as it should be.
    Held,
    /// It is nobody's, or ours and not as it should be.
    Write,
    /// Somebody else's.
    Taken(String),
}

/// Decides about an API by its APIService.
pub(crate) fn claim(live: Option<&Value>, wanted: &Value) -> Claim {
    let Some(live) = live else { return Claim::Write };
    let service = &live["spec"]["service"];
    let (theirs, ours) = (&service["namespace"], &wanted["spec"]["service"]["namespace"]);
    if theirs != ours || service["name"] != wanted["spec"]["service"]["name"] {
        let text = |value: &Value| value.as_str().unwrap_or("the API server itself").to_owned();
        let owner = match service["name"].as_str() {
            Some(name) => format!("the Service {}/{name}", text(theirs)),
            None => text(&service["name"]),
        };
        return Claim::Taken(owner);
    }
    let same = |field: &str| live["spec"][field] == wanted["spec"][field];
    let owned = |value: &Value| value["metadata"]["ownerReferences"][0]["uid"].clone();
    match same("service") && same("caBundle") && same("groupPriorityMinimum") && owned(live) == owned(wanted)
    {
        true => Claim::Held,
        false => Claim::Write,
    }
}

/// The APIService of an API, with the authorities that its certificate is signed by, in base64.
pub(crate) fn wanted(api: Api, home: &Home, authorities: &str, owner: Option<&Value>) -> Value {
    let mut object = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": api.service_name(), "labels": {"app.kubernetes.io/managed-by": "wharf"}},
        "spec": {
            "group": api.group(), "version": api.version(), "groupPriorityMinimum": 100, "versionPriority": 100,
            "service": {"namespace": home.namespace, "name": home.service, "port": home.port},
            "caBundle": authorities,
        },
    });
    if let Some(owner) = owner {
        object["metadata"]["ownerReferences"] = json!([{
            "apiVersion": owner["apiVersion"], "kind": owner["kind"],
            "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        }]);
    }
    object
}

/// Takes an API that is nobody's, keeps one that is ours, and says what became of it.
///
/// # Errors
/// When the cluster refuses.
pub(crate) async fn hold(
    client: &Client,
    api: Api,
    home: &Home,
    authorities: &str,
) -> Result<Claim, kube::Error> {
    let services = objects(client, "apiregistration.k8s.io", "APIService");
    let name = api.service_name();
    let live = services.get_opt(&name).await?;
    let live = live.map(|live| serde_json::to_value(live).map_err(kube::Error::SerdeError)).transpose()?;
    let owner = match &home.owner {
        Some((kind, name)) => {
            let owner = objects(client, "rbac.authorization.k8s.io", kind).get(name).await?;
            let mut owner = serde_json::to_value(owner).map_err(kube::Error::SerdeError)?;
            owner["apiVersion"] = "rbac.authorization.k8s.io/v1".into();
            owner["kind"] = kind.as_str().into();
            Some(owner)
        }
        None => None,
    };
    let mut wanted = wanted(api, home, authorities, owner.as_ref());
    let claim = claim(live.as_ref(), &wanted);
    if claim != Claim::Write {
        return Ok(claim);
    }
    // Whoever writes in between makes this a conflict, and is looked at again.
    match live {
        Some(live) => {
            wanted["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
            let params = PatchParams::apply(MANAGER).force();
            services.patch(&name, &params, &Patch::Apply(&wanted)).await?;
        }
        None => {
            let wanted = serde_json::from_value(wanted).map_err(kube::Error::SerdeError)?;
            let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
            services.create(&params, &wanted).await?;
        }
    }
    Ok(Claim::Held)
}

fn objects(client: &Client, group: &str, kind: &str) -> Objects<DynamicObject> {
    Objects::all_with(client.clone(), &ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> Home {
        Home {
            namespace: "wharf-system".to_owned(),
            service: "wharf-metrics-api".to_owned(),
            port: 443,
            owner: None,
        }
    }

    #[test]
    fn an_api_of_somebody_else_is_never_taken() {
        let ours = wanted(Api::Custom, &home(), "AAAA", None);
        let mut theirs = ours.clone();
        theirs["spec"]["service"] = json!({"namespace": "monitoring", "name": "prometheus-adapter"});
        let taken = Claim::Taken("the Service monitoring/prometheus-adapter".to_owned());
        assert_eq!(claim(Some(&theirs), &ours), taken);
        theirs["spec"]["service"] = Value::Null;
        assert_eq!(claim(Some(&theirs), &ours), Claim::Taken("the API server itself".to_owned()));
    }

    #[test]
    fn our_own_follows_the_certificate_and_is_else_left_alone() {
        let ours = wanted(Api::External, &home(), "AAAA", None);
        assert_eq!(claim(None, &ours), Claim::Write);
        let mut live = ours.clone();
        live["status"] = json!({"conditions": []});
        assert_eq!(claim(Some(&live), &ours), Claim::Held);
        assert_eq!(claim(Some(&live), &wanted(Api::External, &home(), "BBBB", None)), Claim::Write);
        let owner = json!({"kind": "ClusterRole", "metadata": {"name": "a", "uid": "u"}});
        assert_eq!(claim(Some(&live), &wanted(Api::External, &home(), "AAAA", Some(&owner))), Claim::Write);
    }
}
