//! The Secret that all replicas share. Whoever finds something due makes it; whoever comes second takes what the first has made.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use super::{Due, IssueError, Keys, due, issue};

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITIES: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";

/// Why the certificate could not be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error("failed to {what} the Secret {name}")]
    Secret { what: &'static str, name: String, source: Box<kube::Error> },
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// Reads the Secret, makes what is due at `now`, in seconds since 1970, and returns what there then is.
///
/// # Errors
/// When the cluster or the library refuses.
pub(crate) async fn keep(
    client: &Client,
    namespace: &str,
    name: &str,
    names: &[String],
    now: u64,
) -> Result<Keys, KeepError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let failed =
        |what| move |source| KeepError::Secret { what, name: name.to_owned(), source: Box::new(source) };
    loop {
        let found = api.get_opt(name).await.map_err(failed("read"))?;
        let keys = found.as_ref().and_then(read);
        let due = due(keys.as_ref(), names, now);
        if let (Due::Nothing, Some(keys)) = (due, &keys) {
            return Ok(keys.clone());
        }
        let made = issue(keys, due, names, now)?;
        tracing::info!(?due, secret = name, "issued what the metrics API shows who it is with");
        let wanted = secret(name, &made, found.as_ref());
        let written = match found {
            Some(_) => api.replace(name, &PostParams::default(), &wanted).await.map_err(failed("write")),
            None => api.create(&PostParams::default(), &wanted).await.map_err(failed("create")),
        };
        match written {
            Ok(_) => return Ok(made),
            // Somebody else was faster.
            Err(KeepError::Secret { source, .. }) if is_race(&source) => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_race(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 || status.code == 404)
}

fn read(secret: &Secret) -> Option<Keys> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    Some(Keys {
        authorities: text(AUTHORITIES)?,
        authority_key: text(AUTHORITY_KEY)?,
        certificate: text(CERTIFICATE)?,
        key: text(KEY)?,
    })
}

/// What was in it before and is not ours stays; its version tells whether somebody else has written in between.
fn secret(name: &str, keys: &Keys, before: Option<&Secret>) -> Secret {
    let mut secret = before.cloned().unwrap_or_else(|| Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some([("app.kubernetes.io/managed-by".to_owned(), "wharf".to_owned())].into()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        ..Secret::default()
    });
    let Keys { authorities, authority_key, certificate, key } = keys;
    let entries =
        [(CERTIFICATE, certificate), (KEY, key), (AUTHORITIES, authorities), (AUTHORITY_KEY, authority_key)];
    let entries = entries.map(|(name, text)| (name.to_owned(), ByteString(text.clone().into_bytes())));
    secret.data.get_or_insert_default().extend(entries);
    secret
}
