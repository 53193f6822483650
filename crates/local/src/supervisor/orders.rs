//! Decides what becomes of an order: of which service it is, what is done, what is answered.

use super::{Context, Supervisor};
use crate::control::{Order, Reply};
use crate::service::{Service, flat};

impl Supervisor {
    pub(super) fn carry_out(&mut self, order: Order) -> Reply {
        match order {
            Order::Overview => Reply::Overview(Box::new(self.shown.overview(&self.context.gateway))),
            Order::Down => {
                if let Some(down) = self.down.take() {
                    let _ = down.send(());
                }
                Reply::Done("everything ends once running requests are answered".to_owned())
            }
            Order::Scale { service, replicas } => self.with(&service, |service, context| {
                service.scale(replicas, context);
                Ok(format!("{} has {replicas} replicas from now on", service.name))
            }),
            Order::Rollout { service, command } => {
                let name = match self.find(&service) {
                    Ok(name) => name,
                    Err(reply) => return reply,
                };
                if let Some(service) = self.services.get_mut(&name) {
                    service.command(command.into());
                }
                self.look();
                match self.services.get(&name).and_then(Service::answer) {
                    Some((true, message)) => Reply::Done(message),
                    Some((false, message)) => Reply::Refused(message),
                    None => Reply::Refused("nobody answered".to_owned()),
                }
            }
            Order::Log { replica } => self.log(&replica),
        }
    }

    /// The log of a replica, of a model's recipe, or of the replica that serves a service.
    fn log(&self, replica: &str) -> Reply {
        let folder = &self.context.folder;
        if let Ok(name) = self.find(replica)
            && let Some(service) = self.services.get(&name)
        {
            let names = service.replica_names();
            let serves = names.iter().find(|(_, serves)| **serves).or_else(|| names.iter().next());
            return match serves {
                Some((name, _)) => Reply::Log(folder.log(name)),
                None => Reply::Log(folder.log(&format!("{}-model", flat(&name)))),
            };
        }
        let path = folder.log(replica);
        match !replica.contains('/') && path.is_file() {
            true => Reply::Log(path),
            false => Reply::Refused(format!(
                "there is no service and no replica {replica:?}; `wharf ps` lists them"
            )),
        }
    }

    /// The full name of a service that is meant by it or by its last part.
    fn find(&self, name: &str) -> Result<String, Reply> {
        if self.services.contains_key(name) {
            return Ok(name.to_owned());
        }
        let named: Vec<&String> =
            self.services.keys().filter(|full| full.rsplit('/').next() == Some(name)).collect();
        match named[..] {
            [full] => Ok(full.clone()),
            [] => {
                let names: Vec<&str> = self.services.keys().map(String::as_str).collect();
                Err(Reply::Refused(format!("there is no service {name:?}; there is {}", names.join(", "))))
            }
            [..] => Err(Reply::Refused(format!("{name:?} is in several namespaces; write NAMESPACE/NAME"))),
        }
    }

    fn with(
        &mut self,
        name: &str,
        act: impl FnOnce(&mut Service, &Context) -> Result<String, String>,
    ) -> Reply {
        let name = match self.find(name) {
            Ok(name) => name,
            Err(reply) => return reply,
        };
        let Some(service) = self.services.get_mut(&name) else {
            return Reply::Refused(format!("{name} has just ended"));
        };
        match act(service, &self.context) {
            Ok(message) => Reply::Done(message),
            Err(message) => Reply::Refused(message),
        }
    }
}
