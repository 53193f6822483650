//! What a path and a query ask for. Pure.

use std::collections::BTreeMap;

/// A path of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Version,
    Health,
    /// `/openapi/v3`
    Schemas,
    /// `/openapi/v3/apis/{group}/{version}`: of which paths there are, not of objects.
    Schema(String, String),
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/{group}`
    Group(String),
    /// `/api/v1`, `/apis/{group}/{version}`
    Resources(String, String),
    Resource(Place),
    Unknown,
}

/// A collection, an object, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) group: String,
    pub(crate) version: String,
    /// Empty for all, and for kinds of the cluster.
    pub(crate) namespace: String,
    pub(crate) plural: String,
    /// Empty for the collection.
    pub(crate) name: String,
    /// Empty for the object itself.
    pub(crate) part: String,
}

impl Route {
    pub(crate) fn parse(path: &str) -> Route {
        let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts[..] {
            ["version"] => Route::Version,
            ["healthz" | "livez" | "readyz", ..] => Route::Health,
            ["openapi", "v3"] => Route::Schemas,
            ["openapi", "v3", "api", version] => Route::Schema(String::new(), version.to_owned()),
            ["openapi", "v3", "apis", group, version] => Route::Schema(group.to_owned(), version.to_owned()),
            ["api"] => Route::CoreVersions,
            ["apis"] => Route::Groups,
            ["apis", group] => Route::Group(group.to_owned()),
            ["api", version] => Route::Resources(String::new(), version.to_owned()),
            ["apis", group, version] => Route::Resources(group.to_owned(), version.to_owned()),
            ["api", version, ref rest @ ..] => Route::Resource(place("", version, rest)),
            ["apis", group, version, ref rest @ ..] => Route::Resource(place(group, version, rest)),
            _ => Route::Unknown,
        }
    }
}

fn place(group: &str, version: &str, rest: &[&str]) -> Place {
    // A namespace is an object too, with parts of its own.
    let (namespace, rest) = match rest {
        ["namespaces", _, "status" | "finalize"] => ("", rest),
        ["namespaces", namespace, inner @ ..] if !inner.is_empty() => (*namespace, inner),
        _ => ("", rest),
    };
    let part = |index: usize| rest.get(index).map(|&text| text.to_owned()).unwrap_or_default();
    Place {
        group: group.to_owned(),
        version: version.to_owned(),
        namespace: namespace.to_owned(),
        plural: part(0),
        name: part(1),
        part: part(2),
    }
}

/// Parameters of a query; of several with one name the last counts.
pub(crate) fn query(text: &str) -> BTreeMap<String, String> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
    };
    text.split('&').filter(|text| !text.is_empty()).map(pair).collect()
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let code = text.get(index + 1..index + 3).filter(|_| bytes[index] == b'%');
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                index += 3;
            }
            None => {
                decoded.push(bytes[index]);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str) -> [String; 6] {
        let Route::Resource(Place { group, version, namespace, plural, name, part }) = Route::parse(path)
        else {
            panic!("{path}")
        };
        [group, version, namespace, plural, name, part]
    }

    #[test]
    fn paths_name_groups_namespaces_objects_and_parts() {
        assert_eq!(check("/api/v1/pods"), ["", "v1", "", "pods", "", ""]);
        assert_eq!(check("/api/v1/namespaces/a"), ["", "v1", "", "namespaces", "a", ""]);
        assert_eq!(check("/api/v1/namespaces/a/status"), ["", "v1", "", "namespaces", "a", "status"]);
        assert_eq!(
            check("/apis/apps/v1/namespaces/a/deployments/b/scale"),
            ["apps", "v1", "a", "deployments", "b", "scale"]
        );
        assert_eq!(Route::parse("/apis/apps/v1"), Route::Resources("apps".to_owned(), "v1".to_owned()));
        assert_eq!(Route::parse("/"), Route::Unknown);
    }

    #[test]
    fn queries_are_decoded() {
        let query = query("&labelSelector=a%3Db%2Cc+in+%28d%29&watch=true");
        assert_eq!((query["labelSelector"].as_str(), query["watch"].as_str()), ("a=b,c in (d)", "true"));
    }
}
