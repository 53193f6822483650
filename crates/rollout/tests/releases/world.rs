//! The world without its driver: replicas, gateways, requests.

use std::collections::{BTreeMap, VecDeque};

use wharf_api::demand::{FIRST_TOKEN_BUCKETS_MS, VersionCounts};
use wharf_rollout::{
    Colour, Command, Desired, Failure, GatewaySeen, Observed, Prepared, Room, Traffic, Version, VersionSeen,
};

/// Seconds that a request takes.
const REQUEST_S: u64 = 2;
/// Milliseconds at which the world begins.
pub(crate) const EPOCH_MS: u64 = 1_000_000;

/// How a revision behaves.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    /// Seconds until its model is there, and why it never is.
    pub(crate) prepared_after_s: u64,
    pub(crate) prepared: Result<(), &'static str>,
    /// Seconds until a replica is ready.
    pub(crate) start_s: u64,
    /// Only so many replicas find a place.
    pub(crate) at_most: usize,
    /// It exits instead of becoming ready, again and again, or once for all.
    pub(crate) exits: Option<(&'static str, bool)>,
    /// It exits so many seconds after it became ready.
    pub(crate) crashes_after_s: Option<u64>,
    pub(crate) warmup_fails: Option<&'static str>,
    /// One of so many requests fails; 0 for none.
    pub(crate) fails_every: u64,
    /// Bucket of its first tokens.
    pub(crate) bucket: usize,
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour {
            prepared_after_s: 2,
            prepared: Ok(()),
            start_s: 5,
            at_most: usize::MAX,
            exits: None,
            crashes_after_s: None,
            warmup_fails: None,
            fails_every: 0,
            bucket: 3,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Replica {
    age_s: u64,
    ready: bool,
    warmed: bool,
    restarts: u32,
    gone: bool,
    drains_s: Option<u64>,
}

#[derive(Clone, Debug)]
struct There {
    version: Version,
    replicas: Vec<Replica>,
    ends_s: VecDeque<u64>,
    requests: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    pub(crate) name: &'static str,
    /// Seconds that it takes to follow; none if it never does.
    pub(crate) lag_s: Option<u64>,
    pub(crate) epoch: u64,
    told: VecDeque<(u64, Vec<Traffic>)>,
    follows: Vec<Traffic>,
    counts: BTreeMap<Colour, VersionCounts>,
    credit: [i64; 2],
}

impl Gateway {
    pub(crate) fn new(name: &'static str, lag_s: Option<u64>) -> Gateway {
        let (told, follows, counts) = (VecDeque::new(), Vec::new(), BTreeMap::new());
        Gateway { name, lag_s, epoch: 1, told, follows, counts, credit: [0; 2] }
    }

    /// A new life: counters at zero, shares known again at once from what was published last.
    pub(crate) fn restart(&mut self) {
        self.epoch += 1;
        self.counts.clear();
    }

    /// It counted before anybody looked.
    pub(crate) fn with_past(mut self, counts: VersionCounts) -> Gateway {
        self.counts = [(Colour::Blue, counts.clone()), (Colour::Green, counts)].into();
        self
    }
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) now_s: u64,
    pub(crate) generation: i64,
    pub(crate) revision: &'static str,
    pub(crate) revision_since_s: u64,
    pub(crate) replicas: u32,
    pub(crate) room: Room,
    pub(crate) behaviours: BTreeMap<&'static str, Behaviour>,
    pub(crate) gateways: Vec<Gateway>,
    /// Requests a second, at all gateways together.
    pub(crate) rate: u64,
    pub(crate) commands: Vec<Command>,
    versions: BTreeMap<Colour, There>,
    pub(crate) requests: Requests,
}

/// What became of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    pub(crate) failed: u64,
    /// Nobody could take them, so they waited.
    pub(crate) held: u64,
    /// Their version was taken away while they were answered.
    pub(crate) cut: u64,
}

impl World {
    pub(crate) fn new() -> World {
        World {
            now_s: 0,
            generation: 1,
            revision: "r1",
            revision_since_s: 0,
            replicas: 2,
            room: Room::Fits,
            behaviours: [("r1", Behaviour::default())].into(),
            gateways: vec![Gateway::new("g1", Some(1)), Gateway::new("g2", Some(3))],
            rate: 20,
            commands: Vec::new(),
            versions: BTreeMap::new(),
            requests: Requests::default(),
        }
    }

    fn behaviour(&self, revision: &str) -> Behaviour {
        self.behaviours.get(revision).cloned().unwrap_or_default()
    }

    /// A second passes.
    pub(crate) fn tick(&mut self) {
        self.now_s += 1;
        for there in self.versions.values_mut() {
            let behaviour = self.behaviours.get(there.version.revision.as_str()).cloned().unwrap_or_default();
            there.replicas.iter_mut().take(behaviour.at_most).for_each(|replica| replica.tick(&behaviour));
            let placed = |index: usize| index < behaviour.at_most;
            let mut index = 0..;
            there.replicas.retain(|replica| match replica.drains_s {
                Some(0) => false,
                Some(_) => placed(index.next().unwrap_or(0)),
                None => index.next().is_some(),
            });
            while there.ends_s.front().is_some_and(|end| *end <= self.now_s) {
                there.ends_s.pop_front();
            }
        }
        for index in 0..self.gateways.len() {
            let gateway = &mut self.gateways[index];
            while gateway.told.front().is_some_and(|(due, _)| *due <= self.now_s) {
                gateway.follows = gateway.told.pop_front().unwrap().1;
            }
            for _ in 0..self.rate / self.gateways.len() as u64 {
                self.send(index);
            }
        }
    }

    /// A request goes to whose turn it is among those with a share that are ready.
    fn send(&mut self, index: usize) {
        let gateway = &mut self.gateways[index];
        let versions = &self.versions;
        let is_ready = |colour: Colour| versions.get(&colour).is_some_and(|there| there.ready() > 0);
        let weight = |colour: Colour| {
            let mut shares = gateway.follows.iter().filter(|share| share.colour.as_str() == colour.name());
            shares.next().map_or(0, |share| i64::from(share.weight))
        };
        let shares =
            [Colour::Blue, Colour::Green].map(|colour| if is_ready(colour) { weight(colour) } else { 0 });
        if shares == [0, 0] {
            self.requests.held += 1;
            return;
        }
        for (credit, share) in gateway.credit.iter_mut().zip(shares) {
            *credit = if share == 0 { i64::MIN / 2 } else { (*credit).max(-1000) + share };
        }
        let turn = usize::from(gateway.credit[1] > gateway.credit[0]);
        gateway.credit[turn] -= shares.iter().sum::<i64>();
        let colour = [Colour::Blue, Colour::Green][turn];

        let Some(there) = self.versions.get_mut(&colour) else { return };
        let behaviour = self.behaviours.get(there.version.revision.as_str());
        let (fails_every, bucket) = behaviour.map_or((0, 3), |b| (b.fails_every, b.bucket));
        there.requests += 1;
        there.ends_s.push_back(self.now_s + REQUEST_S);
        let counts = gateway.counts.entry(colour).or_default();
        counts.first_token.resize(FIRST_TOKEN_BUCKETS_MS.len() + 1, 0);
        if fails_every > 0 && there.requests.is_multiple_of(fails_every) {
            counts.failed += 1;
            self.requests.failed += 1;
        } else {
            counts.answered += 1;
            counts.first_token[bucket] += 1;
        }
    }

    /// What a driver sees.
    pub(crate) fn observe(&self) -> Observed {
        let behaviour = self.behaviour(self.revision);
        let prepared = match behaviour.prepared {
            _ if self.now_s < self.revision_since_s + behaviour.prepared_after_s => {
                Prepared::Pending("it is fetched".to_owned())
            }
            Ok(()) => Prepared::Ready,
            Err(why) => Prepared::Failed(why.to_owned()),
        };
        let gateway = |gateway: &Gateway| GatewaySeen {
            name: gateway.name.to_owned(),
            epoch: gateway.epoch,
            traffic: gateway.follows.clone(),
            counts: gateway.counts.clone(),
        };
        Observed {
            now_ms: EPOCH_MS + self.now_s * 1000,
            desired: Desired {
                generation: self.generation,
                revision: self.revision.to_owned(),
                replicas: self.replicas,
                prepared,
                room: self.room.clone(),
            },
            versions: self.versions.iter().map(|(colour, there)| (*colour, self.look(there))).collect(),
            gateways: self.gateways.iter().map(gateway).collect(),
            commands: self.commands.clone(),
        }
    }

    fn look(&self, there: &There) -> VersionSeen {
        let behaviour = self.behaviour(&there.version.revision);
        let ready = there.ready();
        let restarts =
            there.replicas.iter().filter(|r| !r.ready && r.drains_s.is_none()).map(|r| r.restarts).max();
        let exits = behaviour.exits.or(behaviour.crashes_after_s.map(|_| ("exits with code 139", false)));
        let failed = there.replicas.iter().any(|r| r.gone || r.restarts > 0 && !r.ready);
        VersionSeen {
            generation: there.version.generation,
            revision: there.version.revision.clone(),
            ready,
            starting: there.replicas.len() as u32 - ready,
            warmed: there.replicas.iter().filter(|r| r.ready && r.warmed).count() as u32,
            warmup_failed: behaviour.warmup_fails.filter(|_| ready > 0).map(str::to_owned),
            failure: exits.filter(|_| failed).map(|(reason, lasting)| Failure {
                reason: reason.to_owned(),
                restarts: restarts.unwrap_or(0),
                lasting,
            }),
            in_flight: there.ends_s.len() as u64,
        }
    }

    pub(crate) fn ensure(&mut self, version: &Version, replicas: u32) {
        let there = self.versions.entry(version.colour).or_insert_with(|| There {
            version: version.clone(),
            replicas: Vec::new(),
            ends_s: VecDeque::new(),
            requests: 0,
        });
        if there.version.revision != version.revision {
            self.requests.cut += there.ends_s.len() as u64;
            (there.replicas, there.ends_s) = (Vec::new(), VecDeque::new());
        }
        there.version = version.clone();
        let stays = |replica: &&mut Replica| replica.drains_s.is_none();
        let have = there.replicas.iter_mut().filter(stays).count();
        let wanted = replicas as usize;
        there.replicas.resize(there.replicas.len() + wanted.saturating_sub(have), Replica::default());
        // Those that are not ready go first.
        let mut surplus = there.replicas.iter_mut().filter(stays).collect::<Vec<_>>();
        surplus.sort_by_key(|replica| replica.ready);
        for replica in surplus.into_iter().take(have.saturating_sub(wanted)) {
            replica.drains_s = Some(if replica.ready { REQUEST_S + 1 } else { 1 });
            replica.ready = false;
        }
    }

    pub(crate) fn warm_up(&mut self, colour: Colour) {
        let Some(there) = self.versions.get_mut(&colour) else { return };
        there.replicas.iter_mut().filter(|replica| replica.ready).for_each(|replica| replica.warmed = true);
    }

    pub(crate) fn set_traffic(&mut self, traffic: &[Traffic]) {
        for gateway in &mut self.gateways {
            let Some(lag_s) = gateway.lag_s else {
                // It followed the first shares there were, and has been deaf since.
                if gateway.follows.is_empty() {
                    gateway.follows = traffic.to_vec();
                }
                continue;
            };
            let last = gateway.told.back().map_or(&gateway.follows, |(_, traffic)| traffic);
            if last != traffic {
                gateway.told.push_back((self.now_s + lag_s, traffic.to_vec()));
            }
        }
    }

    pub(crate) fn remove(&mut self, colour: Colour) {
        if let Some(there) = self.versions.remove(&colour) {
            self.requests.cut += there.ends_s.len() as u64;
        }
    }

    /// What runs, as `blue r1 2/2`.
    pub(crate) fn running(&self) -> Vec<String> {
        let row = |there: &There| {
            let (colour, revision) = (there.version.colour.name(), &there.version.revision);
            format!("{colour} {revision} {}/{}", there.ready(), there.replicas.len())
        };
        self.versions.values().map(row).collect()
    }
}

impl There {
    fn ready(&self) -> u32 {
        self.replicas.iter().filter(|replica| replica.ready).count() as u32
    }
}

impl Replica {
    fn tick(&mut self, behaviour: &Behaviour) {
        if let Some(left) = &mut self.drains_s {
            *left = left.saturating_sub(1);
            return;
        }
        if self.gone {
            return;
        }
        self.age_s += 1;
        let crashes = behaviour.crashes_after_s.is_some_and(|after| self.age_s > behaviour.start_s + after);
        match behaviour.exits {
            Some((_, lasting)) if self.age_s >= behaviour.start_s => {
                (self.age_s, self.ready, self.warmed, self.gone) = (0, false, false, lasting);
                self.restarts += u32::from(!lasting);
            }
            _ if crashes => {
                (self.age_s, self.ready, self.warmed) = (0, false, false);
                self.restarts += 1;
            }
            Some(_) => {}
            None => self.ready = self.age_s >= behaviour.start_s,
        }
    }
}
