//! What an EC2 instance is told about itself: the instance metadata service, version 2.

use async_trait::async_trait;
use push0_core::Millis;
use serde::Deserialize;

use super::{PortError, PortResult};

/// The state that the Auto Scaling group of this instance is bringing it to. Absent where the instance belongs to none.
/// <https://docs.aws.amazon.com/autoscaling/ec2/userguide/retrieving-target-lifecycle-state-through-imds.html>
const TARGET_STATE: &str = "meta-data/autoscaling/target-lifecycle-state";
/// There from two minutes before a Spot instance is taken.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html>
const SPOT_ACTION: &str = "meta-data/spot/instance-action";
/// There once the risk that it is taken has grown.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/rebalance-recommendations.html>
const REBALANCE: &str = "meta-data/events/recommendations/rebalance";
const INSTANCE_ID: &str = "meta-data/instance-id";
/// One document a tag, where the instance's metadata options allow tags.
const TAGS: &str = "meta-data/tags/instance";

/// The metadata service. An answer holds now; an error says nothing at all about the instance, so that whoever asked goes on with what is
/// known, and asks again.
///
/// Errors are `Transient` (no answer in time, a refused token, throttled), but for `Permanent` where the service is turned off (403), and
/// `Corrupt` where a document is not what is documented.
#[async_trait]
pub trait Imds: Send + Sync {
    /// The text at `/latest/{path}`; `None` where there is no such document. Answers or fails within a few seconds.
    async fn read(&self, path: &str) -> PortResult<Option<String>>;

    async fn instance_id(&self) -> PortResult<Option<String>> {
        self.read(INSTANCE_ID).await
    }

    /// `None`: no group has ever said anything about this instance.
    async fn target_state(&self) -> PortResult<Option<TargetState>> {
        Ok(self.read(TARGET_STATE).await?.map(|text| TargetState::of(&text)))
    }

    async fn spot_action(&self) -> PortResult<Option<SpotAction>> {
        match self.read(SPOT_ACTION).await? {
            None => Ok(None),
            Some(text) => SpotAction::of(&text).map(Some),
        }
    }

    async fn rebalance_recommended(&self) -> PortResult<bool> {
        Ok(self.read(REBALANCE).await?.is_some())
    }

    async fn tag(&self, name: &str) -> PortResult<Option<String>> {
        self.read(&format!("{TAGS}/{name}")).await
    }
}

/// Where a group is bringing its instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetState {
    InService,
    /// Out of the group, for good.
    Terminated,
    /// Into the warm pool, to be started later: `Warmed:Stopped`, `Warmed:Running`, `Warmed:Hibernated`.
    Warmed,
    /// `Standby`, `Detached`, or what does not exist yet.
    Other(String),
}

impl TargetState {
    fn of(text: &str) -> Self {
        match text.trim() {
            "InService" => TargetState::InService,
            "Terminated" | "Warmed:Terminated" => TargetState::Terminated,
            other if other.starts_with("Warmed:") => TargetState::Warmed,
            other => TargetState::Other(other.to_owned()),
        }
    }
}

/// That the Spot instance is taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpotAction {
    /// `terminate`, `stop` or `hibernate`.
    pub action: String,
    pub at: Millis,
}

impl SpotAction {
    fn of(text: &str) -> PortResult<Self> {
        #[derive(Deserialize)]
        struct Document {
            action: String,
            time: String,
        }
        let corrupt = || PortError::corrupt(format!("the Spot notice is not as documented: {text:?}"));
        let document: Document = serde_json::from_str(text).map_err(|_| corrupt())?;
        let at = utc(&document.time).ok_or_else(corrupt)?;
        Ok(Self { action: document.action, at })
    }
}

/// `2026-11-24T08:22:00Z` as milliseconds since the epoch.
fn utc(text: &str) -> Option<Millis> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let numbers = |text: &str, separator| -> Option<[u64; 3]> {
        let parts: Option<Vec<u64>> = text.split(separator).map(|part| part.parse().ok()).collect();
        parts?.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (numbers(date, '-')?, numbers(time, ':')?);
    let is_time = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && fraction.bytes().all(|byte| byte.is_ascii_digit());
    // Days from 1 March of the year 0, so that the leap day is a year's last.
    let (shifted, from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + (153 * from_march + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    is_time.then_some(Millis((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_documented_and_nothing_else_is() {
        let cases = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2017-09-18T08:22:00Z", Some(1_505_722_920_000)),
            ("2024-02-29T23:59:59.5Z", Some(1_709_251_199_000)),
            ("2100-03-01T00:00:00Z", Some(4_107_542_400_000)),
            ("2017-09-18T08:22:00", None),
            ("2017-13-18T08:22:00Z", None),
            ("2017-09-18 08:22:00Z", None),
            ("1969-12-31T23:59:59Z", None),
            ("soon", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(utc(text).map(|at| at.0), wanted, "{text}");
        }
    }

    #[test]
    fn only_in_service_is_in_service() {
        assert_eq!(TargetState::of("InService\n"), TargetState::InService);
        assert_eq!(TargetState::of("Terminated"), TargetState::Terminated);
        assert_eq!(TargetState::of("Warmed:Terminated"), TargetState::Terminated);
        for warmed in ["Warmed:Stopped", "Warmed:Running", "Warmed:Hibernated"] {
            assert_eq!(TargetState::of(warmed), TargetState::Warmed);
        }
        for other in ["Standby", "Detached", "", "inservice", "Something New"] {
            assert_eq!(TargetState::of(other), TargetState::Other(other.to_owned()));
        }
    }
}
