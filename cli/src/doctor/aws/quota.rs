//! EC2's quotas, counted in vCPU for each family of instances, beside what the pools may start at their most.
//!
//! What else runs in the account uses the same quotas, and is not counted.

use aws_sdk_autoscaling::types::AutoScalingGroup;
use push0_core::ErrorCode;

use super::refusal::Asked;
use super::{Account, Finding, Findings, State, fleet};

/// A quota of EC2, by the families it counts and how they are bought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quota {
    code: &'static str,
    family: Family,
    is_spot: bool,
    name: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Standard,
    GraphicsAndVideo,
    P,
}

const QUOTAS: [Quota; 6] = [
    quota("L-1216C47A", Family::Standard, false, "Running On-Demand Standard instances"),
    quota("L-34B43A08", Family::Standard, true, "All Standard Spot Instance Requests"),
    quota("L-DB2E81BA", Family::GraphicsAndVideo, false, "Running On-Demand G and VT instances"),
    quota("L-3819A6DF", Family::GraphicsAndVideo, true, "All G and VT Spot Instance Requests"),
    quota("L-417A185B", Family::P, false, "Running On-Demand P instances"),
    quota("L-7212CCBC", Family::P, true, "All P Spot Instance Requests"),
];

const fn quota(code: &'static str, family: Family, is_spot: bool, name: &'static str) -> Quota {
    Quota { code, family, is_spot, name }
}

/// What pools may ask of a quota, vCPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Demand {
    /// Of one instance, of the smallest type.
    least: u32,
    /// Of all instances of all pools, each of the largest type its pool may choose.
    most: u32,
    groups: Vec<String>,
}

/// `groups`: none where nobody knows them.
pub(super) async fn look(account: &Account, groups: Option<&[AutoScalingGroup]>, findings: &mut Findings) {
    let client = aws_sdk_servicequotas::Client::new(&account.connection.sdk);
    let groups = groups.unwrap_or_default();
    for quota in QUOTAS {
        let demand = demand(&quota, groups);
        // Before there are groups all are told.
        if demand.groups.is_empty() && !groups.is_empty() {
            continue;
        }
        let answer = client.get_service_quota().service_code("ec2").quota_code(quota.code).send().await;
        match answer {
            Ok(answer) => {
                let vcpus = answer.quota().and_then(|found| found.value()).unwrap_or_default();
                findings.0.push(judge(&quota, vcpus, &demand));
            }
            // What is true of one quota is true of the others.
            Err(error) => {
                let asked =
                    Asked { what: "quotas of EC2", action: "servicequotas:GetServiceQuota", on: "*".to_owned() };
                return findings.0.push(asked.failed(account, State::Warning, &error));
            }
        }
    }
}

fn demand(quota: &Quota, groups: &[AutoScalingGroup]) -> Demand {
    let mut demand = Demand::default();
    for group in groups {
        let (on_demand, spot) = bought(group);
        let count = if quota.is_spot { spot } else { on_demand };
        let types = fleet::types(group).into_iter().filter(|name| family(name) == Some(quota.family));
        let sizes: Vec<u32> = types.filter_map(vcpus).collect();
        let (Some(&least), Some(&most)) = (sizes.iter().min(), sizes.iter().max()) else { continue };
        if count == 0 {
            continue;
        }
        demand.least = if demand.groups.is_empty() { least } else { demand.least.min(least) };
        demand.most += count * most;
        demand.groups.push(group.auto_scaling_group_name().unwrap_or_default().to_owned());
    }
    demand
}

/// How many instances a group has at its most on demand, and how many of Spot.
fn bought(group: &AutoScalingGroup) -> (u32, u32) {
    let number = |number: Option<i32>, usual| u32::try_from(number.unwrap_or(usual)).unwrap_or_default();
    let distribution = group.mixed_instances_policy().and_then(|policy| policy.instances_distribution());
    let all = number(group.max_size(), 0);
    let base = number(distribution.and_then(|found| found.on_demand_base_capacity()), 0).min(all);
    let percent = number(distribution.and_then(|found| found.on_demand_percentage_above_base_capacity()), 100);
    let on_demand = base + ((all - base) * percent).div_ceil(100);
    (on_demand, all - on_demand)
}

fn judge(quota: &Quota, vcpus: f64, demand: &Demand) -> Finding {
    let Demand { least, most, groups } = demand;
    let what = format!("quota {}", quota.code);
    let says = format!("{}: {vcpus} vCPU", quota.name);
    let raise = |wanted: u32| {
        format!(
            "it takes hours to days: `aws service-quotas request-service-quota-increase --service-code ec2 --quota-code {} --desired-value {wanted}`",
            quota.code
        )
    };
    let finding = |state, says, next, code| Finding { what: what.clone(), state, says, next, code };
    if groups.is_empty() && vcpus > 0.0 {
        return finding(State::Ok, says, None, None);
    }
    if groups.is_empty() {
        let says = format!("{says}: not one such instance can be started");
        let next = format!(
            "if a pool is to have such: 4 for each xlarge, 16 for each 4xlarge, before you apply; {}",
            raise(64)
        );
        return finding(State::Warning, says, Some(next), None);
    }
    let of = groups.join(", ");
    if vcpus < f64::from(*least) {
        let says = format!("{says}: {of} cannot start one instance, which takes {least}");
        return finding(State::Problem, says, Some(raise(*most)), Some(ErrorCode::NobodyTakesTasks));
    }
    let says = format!("{says}; {of} may ask for {most}");
    if vcpus < f64::from(*most) {
        return finding(State::Warning, says, Some(format!("lower `max`, or {}", raise(*most))), None);
    }
    finding(State::Ok, says, None, None)
}

/// By the letters before the generation, as EC2 counts them.
fn family(instance_type: &str) -> Option<Family> {
    let letters = instance_type.split(|letter: char| letter.is_ascii_digit()).next()?;
    match letters {
        "g" | "gr" | "vt" => Some(Family::GraphicsAndVideo),
        "p" => Some(Family::P),
        "a" | "c" | "d" | "h" | "i" | "im" | "is" | "m" | "r" | "t" | "z" => Some(Family::Standard),
        _ => None,
    }
}

/// An xlarge has 4, an Nxlarge N times as many; of bare metal the name says nothing.
fn vcpus(instance_type: &str) -> Option<u32> {
    let (generation, size) = instance_type.split_once('.')?;
    match size {
        "nano" | "micro" | "small" | "medium" if generation.starts_with('t') => Some(2),
        "medium" => Some(1),
        "large" => Some(2),
        "xlarge" => Some(4),
        size => size.strip_suffix("xlarge")?.parse::<u32>().ok().map(|times| times * 4),
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_autoscaling::types::{
        InstancesDistribution, LaunchTemplate, LaunchTemplateOverrides, MixedInstancesPolicy,
    };

    use super::*;

    fn group(name: &str, types: &[&str], most: i32, base: i32, percent: i32) -> AutoScalingGroup {
        let other = |name: &&str| LaunchTemplateOverrides::builder().instance_type(*name).build();
        let template = LaunchTemplate::builder().set_overrides(Some(types.iter().map(other).collect())).build();
        let distribution = InstancesDistribution::builder()
            .on_demand_base_capacity(base)
            .on_demand_percentage_above_base_capacity(percent);
        let policy = MixedInstancesPolicy::builder()
            .launch_template(template)
            .instances_distribution(distribution.build())
            .build();
        AutoScalingGroup::builder().auto_scaling_group_name(name).max_size(most).mixed_instances_policy(policy).build()
    }

    fn of(code: &str) -> Quota {
        QUOTAS.into_iter().find(|quota| quota.code == code).unwrap()
    }

    #[test]
    fn what_pools_may_start_at_their_most_is_counted_by_family_and_purchase() {
        let groups = [
            group("p-gpu", &["g6.4xlarge", "g6.8xlarge", "g6e.4xlarge"], 24, 2, 0),
            group("p-large", &["p5.48xlarge"], 2, 0, 100),
            group("p-trusted", &["c7i.large", "c7a.xlarge"], 2, 2, 100),
        ];
        for (code, least, most) in [
            ("L-DB2E81BA", 16, 2 * 32),
            ("L-3819A6DF", 16, 22 * 32),
            ("L-417A185B", 192, 2 * 192),
            ("L-7212CCBC", 0, 0),
            ("L-1216C47A", 2, 2 * 4),
            ("L-34B43A08", 0, 0),
        ] {
            let found = demand(&of(code), &groups);
            assert_eq!((found.least, found.most), (least, most), "{code}");
        }
    }

    #[test]
    fn the_share_on_demand_is_of_what_is_above_the_base() {
        for (most, base, percent, wanted) in
            [(10, 2, 0, (2, 8)), (10, 2, 50, (6, 4)), (10, 0, 25, (3, 7)), (3, 5, 0, (3, 0)), (4, 0, 100, (4, 0))]
        {
            assert_eq!(bought(&group("p", &[], most, base, percent)), wanted);
        }
        assert_eq!(bought(&AutoScalingGroup::builder().max_size(4).build()), (4, 0), "a group without Spot");
    }

    #[test]
    fn a_quota_is_too_small_for_one_instance_for_all_or_for_none() {
        let demand = Demand { least: 16, most: 384, groups: vec!["p-gpu".to_owned()] };
        let judged = |vcpus| judge(&of("L-DB2E81BA"), vcpus, &demand);
        let none = judged(0.0);
        assert_eq!((none.state, none.code), (State::Problem, Some(ErrorCode::NobodyTakesTasks)));
        assert!(
            none.says.contains("p-gpu cannot start one")
                && none.next.unwrap().contains("--quota-code L-DB2E81BA --desired-value 384")
        );
        let some = judged(64.0);
        assert!(some.state == State::Warning && some.says.contains("64 vCPU; p-gpu may ask for 384"), "{}", some.says);
        assert_eq!(judged(384.0).state, State::Ok);
    }

    #[test]
    fn before_there_are_pools_a_quota_of_nothing_is_told() {
        let judged = |vcpus| judge(&of("L-3819A6DF"), vcpus, &Demand::default()).state;
        assert_eq!([judged(0.0), judged(5.0)], [State::Warning, State::Ok]);
    }

    #[test]
    fn names_of_instance_types_tell_family_and_size() {
        for (name, wanted, size) in [
            ("g4dn.xlarge", Some(Family::GraphicsAndVideo), Some(4)),
            ("gr6.4xlarge", Some(Family::GraphicsAndVideo), Some(16)),
            ("g7e.48xlarge", Some(Family::GraphicsAndVideo), Some(192)),
            ("p4d.24xlarge", Some(Family::P), Some(96)),
            ("c7i.large", Some(Family::Standard), Some(2)),
            ("im4gn.4xlarge", Some(Family::Standard), Some(16)),
            ("t3.micro", Some(Family::Standard), Some(2)),
            ("m7g.medium", Some(Family::Standard), Some(1)),
            ("c7i.metal-24xl", Some(Family::Standard), None),
            ("inf2.xlarge", None, Some(4)),
            ("trn1.32xlarge", None, Some(128)),
            ("nonsense", None, None),
        ] {
            assert_eq!((family(name), vcpus(name)), (wanted, size), "{name}");
        }
    }
}
