//! The commands that run services on this machine, and those that steer what runs.

mod ask;
mod child;
mod detach;
mod down;
mod files;
mod forecast;
mod logs;
mod machine;
mod ps;
mod rollout;
mod scale;
mod screen;
mod start;
mod state;

pub(crate) use child::{Args as ChildArgs, run as run_child};
pub(crate) use down::{Args as DownArgs, run as down};
pub(crate) use logs::{Args as LogsArgs, run as logs};
pub(crate) use ps::{Args as PsArgs, run as ps};
pub(crate) use rollout::{Args as RolloutArgs, run as rollout};
pub(crate) use scale::{Args as ScaleArgs, run as scale};
pub(crate) use start::{Args, run};
