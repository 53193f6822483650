//! What `wharf up` runs: the objects of the files, read again when they change.

use wharf_local::{Objects, Reader, Written};
use wharf_spec::{Object, Severity};

use crate::manifest::input::Files;

/// Reads the files now and whenever they have changed since.
pub(super) fn reader(files: Files) -> Reader {
    let mut last: Option<Vec<(String, String)>> = None;
    Box::new(move || {
        let texts = match files.texts() {
            Ok(texts) => texts,
            Err(error) => {
                // Told once, not at every look.
                let news = last.replace(Vec::new()).is_none_or(|before| !before.is_empty());
                return news.then(|| Err(format!("{error:#}")));
            }
        };
        if last.as_ref() == Some(&texts) {
            return None;
        }
        let read = objects(&texts);
        last = Some(texts);
        Some(read)
    })
}

fn objects(texts: &[(String, String)]) -> Result<Objects, String> {
    let found = Files::parse(texts).map_err(|error| format!("{error:#}"))?;
    let errors: Vec<String> = found
        .problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .map(ToString::to_string)
        .collect();
    if !errors.is_empty() {
        return Err(errors.join("\n"));
    }
    let mut objects = Objects::default();
    for (object, place) in found.objects.into_iter().zip(&found.places) {
        match object {
            Object::Service(object) => {
                let yaml = serde_saphyr::to_string(found.documents[*place].value());
                let yaml = yaml.map_err(|error| format!("failed to write an object as YAML: {error}"))?;
                objects.services.push(Written { object: *object, yaml });
            }
            Object::Model(model) => objects.models.push(*model),
            Object::Foreign(..) => {}
        }
    }
    match objects.services.is_empty() {
        true => Err("there is no LLMService in the files".to_owned()),
        false => Ok(objects),
    }
}
