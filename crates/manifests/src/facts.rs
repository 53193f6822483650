//! A service as builders need it: everything that more than one of them asks for, decided once.

use std::cell::OnceCell;

use wharf_spec::LLMService;
use wharf_spec::scalar::Source;
use wharf_spec::service::{CacheType, Engine, LLMServiceSpec, ModelSection, ScalingMode};

use crate::artifacts::{Artifact, Store};
use crate::launch::{self, Launch};
use crate::names;
use crate::{Mode, Places, RenderError, Settings, State};

/// Where model pods find the model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Files {
    /// In a claim that Jobs of this service fill.
    OwnClaim(String),
    /// In a claim that was there before, at this path in it.
    TheirClaim(String),
    /// In the claim of a Model.
    OfModel(String),
    /// In an OCI image that is mounted.
    Image(String),
    /// In folders of this machine.
    Local,
}

/// A service as builders need it.
#[derive(Debug)]
pub struct Facts<'a> {
    pub(crate) service: &'a LLMService,
    pub(crate) spec: &'a LLMServiceSpec,
    pub(crate) state: &'a State,
    pub(crate) settings: &'a Settings,
    pub(crate) mode: Mode,
    pub(crate) places: Places,
    pub(crate) name: &'a str,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) files: Files,
    pub(crate) artifact: Artifact,
    launch: OnceCell<Launch>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(
        service: &'a LLMService,
        state: &'a State,
        settings: &'a Settings,
        mode: Mode,
        places: Places,
    ) -> Result<Facts<'a>, RenderError> {
        let spec = &service.spec;
        let error = |path: &str, message: &str| {
            Err(RenderError { path: path.to_owned(), message: message.to_owned() })
        };
        let Some(name) = service.metadata.name.as_deref() else {
            return error("metadata.name", "is required");
        };
        let lies_here = |source: &Source| !source.is_remote() && source.claim().is_none();
        if mode != Mode::Local && spec.model.source.as_ref().is_some_and(lies_here) {
            return error(
                "spec.model.source",
                "file:// names a file of one machine, for `wharf up`; pods need pvc:// or a source that can be fetched",
            );
        }
        if mode == Mode::Standalone {
            standalone(spec)?;
        }
        let (files, artifact) = files(service, name, mode, &places);
        Ok(Facts {
            service,
            spec,
            state,
            settings,
            mode,
            places,
            name,
            namespace: service.metadata.namespace.as_deref(),
            files,
            artifact,
            launch: OnceCell::new(),
        })
    }

    /// Whether Services select the pods.
    pub(crate) fn is_direct(&self) -> bool {
        self.spec.expose.direct || self.mode == Mode::Standalone
    }

    /// Name that requests use.
    pub(crate) fn served_name(&self) -> &str {
        self.spec.model.name.as_deref().unwrap_or(self.name)
    }

    /// How the engine is started; decided when it is first asked for, because many ask.
    pub(crate) fn launch(&self) -> &Launch {
        self.launch.get_or_init(|| launch::of(self))
    }

    /// Whether a replica has pods on several nodes.
    pub(crate) fn is_group(&self) -> bool {
        self.spec.parallelism.nodes > 1
    }

    /// Whether model pods serve HTTPS themselves.
    pub(crate) fn serves_tls(&self) -> bool {
        self.is_direct() && self.spec.expose.tls.is_some()
    }

    /// Image of the engine.
    pub(crate) fn image(&self) -> String {
        let Settings { image, vllm_image, sglang_image, llamacpp_image, llamacpp_cuda_image, .. } =
            self.settings;
        let own = match self.spec.runtime.engine {
            Engine::Wharf | Engine::Custom => image,
            Engine::Vllm => vllm_image,
            Engine::Sglang => sglang_image,
            Engine::LlamaCpp if self.spec.resources.gpu.is_some() => llamacpp_cuda_image,
            Engine::LlamaCpp => llamacpp_image,
        };
        self.spec.runtime.image.clone().unwrap_or_else(|| own.clone())
    }

    /// The same service with another spec: that of an older version.
    pub(crate) fn of_version<'b>(&'b self, released: &'b LLMService) -> Facts<'b>
    where
        'a: 'b,
    {
        let (files, artifact) = files(released, self.name, self.mode, &self.places);
        let Facts {
            service,
            spec: _,
            state,
            settings,
            mode,
            ref places,
            name,
            namespace,
            files: _,
            artifact: _,
            launch: _,
        } = *self;
        Facts {
            service,
            spec: &released.spec,
            state,
            settings,
            mode,
            places: places.clone(),
            name,
            namespace,
            files,
            artifact,
            launch: OnceCell::new(),
        }
    }
}

/// What needs Wharf's gateway or operator.
fn standalone(spec: &LLMServiceSpec) -> Result<(), RenderError> {
    let needs = [
        (spec.model.reference.is_some(), "spec.model.ref", "a Model is prepared by the operator; use source"),
        (
            spec.scaling.min == 0 && spec.scaling.mode == ScalingMode::Native,
            "spec.scaling.min",
            "the gateway holds requests while a service wakes; set at least 1, or mode keda",
        ),
        (
            spec.access.limits.is_some(),
            "spec.access.limits",
            "limits are kept by the gateway; leave them out",
        ),
        (
            !spec.rollout.steps.is_empty(),
            "spec.rollout.steps",
            "traffic is divided by the gateway; choose another strategy than Canary",
        ),
    ];
    match needs.into_iter().find(|(given, _, _)| *given) {
        Some((_, path, why)) => Err(RenderError {
            path: path.to_owned(),
            message: format!("cannot be had with --standalone: {why}"),
        }),
        None => Ok(()),
    }
}

fn files(service: &LLMService, name: &str, mode: Mode, places: &Places) -> (Files, Artifact) {
    let (model, store) = (&service.spec.model, Store(places));
    let digest = model.digest.as_ref().map(|digest| digest.as_str());
    let Some(source) = &model.source else {
        let reference = model.reference.as_ref().map_or("", |name| name.as_str());
        // The operator fills in what the Model's status says; this is where a Model without a recipe has it.
        let current = format!("{}/current", places.models);
        return (Files::OfModel(reference.to_owned()), Artifact::plain(current));
    };
    let made = |original: String| store.artifact(source, digest, model.optimize.as_ref(), original);
    if mode == Mode::Local {
        return (Files::Local, made(store.located(source, digest).path));
    }
    match model.cache_type() {
        CacheType::Image => {
            let reference = source.as_str().trim_start_matches("oci://");
            (Files::Image(reference.to_owned()), Artifact::plain(places.models.clone()))
        }
        CacheType::EmptyDir => {
            // The one volume that such a pod has is mounted where models are.
            let (claim, path) = source.claim().unwrap_or_default();
            let path = format!("{}/{path}", places.models).trim_end_matches('/').to_owned();
            (Files::TheirClaim(claim.to_owned()), Artifact::plain(path))
        }
        CacheType::Pvc => (Files::OwnClaim(own_claim(name, model)), made(store.fetched_file(source, digest))),
    }
}

/// The claim that Jobs of a service fill.
pub(crate) fn own_claim(name: &str, model: &ModelSection) -> String {
    model.cache.claim_name.clone().unwrap_or_else(|| names::child(name, "cache"))
}
