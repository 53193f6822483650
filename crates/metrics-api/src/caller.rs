//! Who asks. The API server asks in the name of others: it shows the front proxy's certificate and says in headers for whom (Kubernetes
//! documentation, "Configure the Aggregation Layer"). Everybody else shows a token, or is nobody. Pure.

use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde_json::{Map, Value};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::escape::unescaped;

/// Where the cluster says whom to believe.
pub(crate) const NAMESPACE: &str = "kube-system";
/// Name of its ConfigMap.
pub(crate) const CONFIG: &str = "extension-apiserver-authentication";

/// Nobody in particular, and everybody else.
pub(crate) const ANONYMOUS: &str = "system:anonymous";
const AUTHENTICATED: &str = "system:authenticated";

/// Whom to believe that speaks for others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrontProxy {
    /// Who signs its certificate, in PEM.
    pub(crate) authorities: String,
    /// Common names that it may have; any if there are none.
    names: Vec<String>,
    user_headers: Vec<String>,
    group_headers: Vec<String>,
    extra_prefixes: Vec<String>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Somebody for whom the front proxy vouches.
    User(User),
    /// Whoever has this token.
    Token(String),
    /// Nobody that we know.
    Nobody,
}

/// A user of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

impl FrontProxy {
    /// What the ConfigMap says.
    ///
    /// # Errors
    /// A sentence about what is missing.
    pub(crate) fn read(data: &BTreeMap<String, String>) -> Result<FrontProxy, String> {
        let list = |key: &str| -> Result<Vec<String>, String> {
            let Some(text) = data.get(key).filter(|text| !text.trim().is_empty()) else {
                return Ok(Vec::new());
            };
            serde_json::from_str(text).map_err(|error| format!("{key} is no list of names: {error}"))
        };
        let authorities = data.get("requestheader-client-ca-file").filter(|text| !text.trim().is_empty());
        let authorities =
            authorities.ok_or("the API server has no front proxy (--requestheader-client-ca-file)")?.clone();
        let lower = |names: Vec<String>| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Ok(FrontProxy {
            authorities,
            names: list("requestheader-allowed-names")?,
            user_headers: lower(list("requestheader-username-headers")?),
            group_headers: lower(list("requestheader-group-headers")?),
            extra_prefixes: lower(list("requestheader-extra-headers-prefix")?),
        })
    }

    /// Who asks, by the certificate that was verified and by headers. Headers of anybody but the front proxy say nothing.
    pub(crate) fn caller(&self, certificate: Option<&[u8]>, headers: &HeaderMap) -> Caller {
        if certificate.is_some_and(|der| self.is_it(der))
            && let Some(name) = self.user_headers.iter().find_map(|name| text(headers, name))
        {
            return Caller::User(self.user(name, headers));
        }
        let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = bearer.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
        });
        token.filter(|token| !token.is_empty()).map_or(Caller::Nobody, Caller::Token)
    }

    fn is_it(&self, der: &[u8]) -> bool {
        if self.names.is_empty() {
            return true;
        }
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
        let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        name.is_some_and(|name| self.names.iter().any(|known| known == name))
    }

    fn user(&self, name: String, headers: &HeaderMap) -> User {
        let groups = self.group_headers.iter().flat_map(|name| headers.get_all(name));
        let mut groups: Vec<String> =
            groups.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect();
        // The front proxy does not always name it; every server behind it adds it.
        if name != ANONYMOUS && !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in headers {
            let key =
                self.extra_prefixes.iter().find_map(|prefix| name.as_str().strip_prefix(prefix.as_str()));
            if let (Some(key), Ok(value)) = (key, value.to_str()) {
                extra.entry(unescaped(key)).or_default().push(value.to_owned());
            }
        }
        User { name, uid: text(headers, "x-remote-uid").unwrap_or_default(), groups, extra }
    }
}

impl User {
    /// The user of a TokenReview's status, if the token is somebody's.
    pub(crate) fn of_review(status: &Value) -> Option<User> {
        if status["authenticated"] != true {
            return None;
        }
        let user = &status["user"];
        let texts = |value: &Value| -> Vec<String> {
            value
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|text| text.as_str().map(str::to_owned))
                .collect()
        };
        let extra = user["extra"].as_object().into_iter().flatten();
        Some(User {
            name: user["username"].as_str()?.to_owned(),
            uid: user["uid"].as_str().unwrap_or_default().to_owned(),
            groups: texts(&user["groups"]),
            extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect(),
        })
    }

    /// Its fields of a SubjectAccessReview.
    pub(crate) fn to_review(&self) -> Map<String, Value> {
        let User { name, uid, groups, extra } = self;
        let fields = [
            ("user", Value::from(name.clone())),
            ("uid", uid.clone().into()),
            ("groups", groups.clone().into()),
        ];
        let mut review: Map<String, Value> =
            fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let extra: Map<String, Value> =
            extra.iter().map(|(key, values)| (key.clone(), values.clone().into())).collect();
        review.insert("extra".to_owned(), extra.into());
        review
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use rcgen::{CertificateParams, DnType, KeyPair};
    use serde_json::json;

    use super::*;

    fn front_proxy() -> FrontProxy {
        let data = [
            ("requestheader-client-ca-file", "PEM"),
            ("requestheader-allowed-names", "[\"front-proxy-client\"]"),
            ("requestheader-username-headers", "[\"X-Remote-User\"]"),
            ("requestheader-group-headers", "[\"X-Remote-Group\"]"),
            ("requestheader-extra-headers-prefix", "[\"X-Remote-Extra-\"]"),
        ];
        let data = data.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        FrontProxy::read(&data).unwrap()
    }

    fn certificate(name: &str) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn headers(all: &[(&str, &str)]) -> HeaderMap {
        let header = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
        };
        let mut headers = HeaderMap::new();
        for (name, value) in all.iter().map(header) {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn the_front_proxy_says_for_whom_it_asks() {
        let asked = headers(&[
            ("X-Remote-User", "system:serviceaccount:kube-system:horizontal-pod-autoscaler"),
            ("X-Remote-Group", "system:serviceaccounts"),
            ("X-Remote-Group", "system:authenticated"),
            ("X-Remote-Extra-authentication.kubernetes.io%2Fcredential-id", "JTI=1"),
        ]);
        let Caller::User(user) = front_proxy().caller(Some(&certificate("front-proxy-client")), &asked)
        else {
            panic!("it is believed");
        };
        assert_eq!(user.name, "system:serviceaccount:kube-system:horizontal-pod-autoscaler");
        assert_eq!(user.groups, ["system:serviceaccounts", "system:authenticated"]);
        assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["JTI=1"]);
    }

    #[test]
    fn whoever_the_front_proxy_names_is_authenticated() {
        let asked = headers(&[("X-Remote-User", "system:aggregator")]);
        let Caller::User(user) = front_proxy().caller(Some(&certificate("front-proxy-client")), &asked)
        else {
            panic!("it is believed");
        };
        assert_eq!(user.groups, ["system:authenticated"]);
    }

    #[test]
    fn headers_of_anybody_else_say_nothing() {
        let asked = headers(&[("X-Remote-User", "system:admin"), ("Authorization", "Bearer abc")]);
        let abc = Caller::Token("abc".to_owned());
        assert_eq!(front_proxy().caller(None, &asked), abc);
        assert_eq!(front_proxy().caller(Some(&certificate("somebody")), &asked), abc);
        assert_eq!(front_proxy().caller(Some(b"no certificate"), &asked), abc);
        assert_eq!(
            front_proxy().caller(None, &headers(&[("X-Remote-User", "system:admin")])),
            Caller::Nobody
        );
        assert_eq!(front_proxy().caller(None, &headers(&[("Authorization", "Basic abc")])), Caller::Nobody);
    }

    #[test]
    fn a_cluster_without_a_front_proxy_is_told() {
        let told = FrontProxy::read(&BTreeMap::new()).unwrap_err();
        assert!(told.contains("--requestheader-client-ca-file"), "{told}");
    }

    #[test]
    fn a_token_that_is_nobodys_is_no_user() {
        assert_eq!(User::of_review(&json!({"authenticated": false, "user": {"username": "a"}})), None);
        let status =
            json!({"authenticated": true, "user": {"username": "a", "groups": ["b"], "extra": {"c": ["d"]}}});
        let user = User::of_review(&status).unwrap();
        let review = Value::from(user.to_review());
        assert_eq!(review, json!({"user": "a", "uid": "", "groups": ["b"], "extra": {"c": ["d"]}}));
    }
}
