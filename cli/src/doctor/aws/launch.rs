//! What Auto Scaling says of a launch that failed, in words that say what to do.
//!
//! Its messages are EC2's, in sentences or codes, and are not listed anywhere in whole: what is known here was collected from AWS's
//! troubleshooting pages and from people who met them.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) says: &'static str,
    pub(super) next: &'static str,
}

const IMAGE: Cause = Cause {
    says: "the image is not there",
    next: "`packer build` in infra/packer, in this region and account, and apply with the image it prints",
};
const ARCHITECTURE: Cause = Cause {
    says: "image and instance type are of two architectures",
    next: "an image for the types' architecture, or types for the image's, in `pools`",
};
const DISK: Cause =
    Cause { says: "the disk is smaller than the image", next: "raise `disk_gib` of the pool, and apply" };
const QUOTA: Cause = Cause {
    says: "a quota is used up",
    next: "Service Quotas, EC2: ask for as many vCPU as the pools need at most (counted below); it takes hours to days",
};
const CAPACITY: Cause = Cause {
    says: "AWS has no such instances now",
    next: "more instance types and zones in the pool, or more of it on demand; work waits meanwhile",
};
const ZONE: Cause = Cause {
    says: "a zone has no such instance type",
    next: "other `zones` or subnets, or more instance types in the pool",
};
const WORKER: Cause = Cause {
    says: "the worker never came up, or its provers failed their test",
    next: "a shell on the next one while it waits at its hook (`aws ssm start-session`): `journalctl -u push0-worker`, `nvidia-smi`; P0-118",
};
const SPOT_ROLE: Cause = Cause {
    says: "the account has no role for Spot yet",
    next: "once in an account's life: `aws iam create-service-linked-role --aws-service-name spot.amazonaws.com`",
};
const KEY: Cause = Cause {
    says: "EC2 ended it at once: mostly a key of its disk that Auto Scaling may not use",
    next: "the policy of the KMS key must let AWSServiceRoleForAutoScaling use it and make grants",
};
const PROFILE: Cause = Cause {
    says: "its instance profile is not there",
    next: "`terraform apply` makes it; IAM takes a minute until all of AWS knows",
};
const NETWORK: Cause = Cause {
    says: "its subnet or security group is not there",
    next: "`terraform apply`; with `network`, look whether its subnets still exist",
};
const ADDRESSES: Cause = Cause { says: "the subnet has no free address", next: "larger or more subnets" };
const FORBIDDEN: Cause = Cause {
    says: "Auto Scaling may not do it",
    next: "the organization's policies, and those of the launch template's image, key and role",
};
const ACCOUNT: Cause = Cause {
    says: "AWS has not cleared this account or region yet",
    next: "wait for AWS's mail, or open a case with support",
};
const MARKETPLACE: Cause = Cause {
    says: "the image is of the Marketplace, and nobody has accepted its terms",
    next: "accept them in the Marketplace, with this account",
};
const UNKNOWN: Cause = Cause { says: "for a reason push0 does not know", next: "the message is AWS's own" };

/// Parts of messages; the first that is there counts.
const KNOWN: &[(&str, Cause)] = &[
    ("lifecycle action", WORKER),
    ("smaller than snapshot", DISK),
    ("does not match the architecture", ARCHITECTURE),
    ("invalidamiid", IMAGE),
    ("image id", IMAGE),
    ("ami cannot be described", IMAGE),
    ("vcpu", QUOTA),
    ("max spot instance count", QUOTA),
    ("maxspotinstancecount", QUOTA),
    ("limitexceeded", QUOTA),
    ("instance quota", QUOTA),
    ("freeaddresses", ADDRESSES),
    ("free addresses", ADDRESSES),
    ("not supported in your requested availability zone", ZONE),
    ("capacity", CAPACITY),
    ("servicelinkedrole", SPOT_ROLE),
    ("service-linked role for ec2 spot", SPOT_ROLE),
    ("client error on launch", KEY),
    ("client.internalerror", KEY),
    ("invalidkmskey", KEY),
    ("iaminstanceprofile", PROFILE),
    ("instance profile", PROFILE),
    ("security group", NETWORK),
    ("subnet", NETWORK),
    ("being validated", ACCOUNT),
    ("pendingverification", ACCOUNT),
    ("currently blocked", ACCOUNT),
    ("optinrequired", MARKETPLACE),
    ("accept terms", MARKETPLACE),
    ("not authorized", FORBIDDEN),
    ("unauthorizedoperation", FORBIDDEN),
];

pub(super) fn cause(message: &str) -> Cause {
    let message = message.to_lowercase();
    KNOWN.iter().find(|(part, _)| message.contains(part)).map_or(UNKNOWN, |(_, cause)| *cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_every_known_kind_say_what_to_do() {
        for (message, wanted) in [
            ("The image id '[ami-0123456789abcdef0]' does not exist. Launching EC2 instance failed.", IMAGE),
            ("InvalidAMIID.NotFound - the AMI is not there", IMAGE),
            ("AMI cannot be described. Launching EC2 instance failed.", IMAGE),
            (
                "The architecture 'arm64' of the specified instance type does not match the architecture 'x86_64' of the specified AMI.",
                ARCHITECTURE,
            ),
            ("Volume of size 20GB is smaller than snapshot 'snap-1', expect size >= 50GB", DISK),
            (
                "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the instance bucket",
                QUOTA,
            ),
            ("VcpuLimitExceeded - limit of 8", QUOTA),
            ("Max spot instance count exceeded. Launching EC2 instance failed.", QUOTA),
            (
                "Could not launch Spot Instances. MaxSpotInstanceCountExceeded - Max spot instance count exceeded.",
                QUOTA,
            ),
            (
                "We currently do not have sufficient g6.4xlarge capacity in the Availability Zone you requested (us-east-1a).",
                CAPACITY,
            ),
            ("Could not launch Spot Instances. UnfulfillableCapacity - Unable to fulfill capacity", CAPACITY),
            ("Could not launch On-Demand Instances. InsufficientInstanceCapacity - there is none", CAPACITY),
            (
                "Your requested instance type (g7e.2xlarge) is not supported in your requested Availability Zone (us-east-1e).",
                ZONE,
            ),
            (
                "Instance failed to complete user's Lifecycle Action: Lifecycle Action with token 1 was abandoned: Heartbeat Timeout",
                WORKER,
            ),
            ("AuthFailure.ServiceLinkedRoleCreationNotPermitted - may not create it", SPOT_ROLE),
            ("Client.InternalError: Client error on launch. Launching EC2 instance failed.", KEY),
            ("Invalid IamInstanceProfile: p-gpu-worker. Launching EC2 instance failed.", PROFILE),
            ("The security group 'sg-1' does not exist in VPC 'vpc-1'.", NETWORK),
            ("There are not enough free addresses in subnet 'subnet-1'.", ADDRESSES),
            ("Your request for accessing resources in this region is being validated", ACCOUNT),
            ("In order to use this AWS Marketplace product you need to accept terms and subscribe.", MARKETPLACE),
            ("You are not authorized to perform this operation. Encoded authorization failure message: x", FORBIDDEN),
            ("something new", UNKNOWN),
        ] {
            assert_eq!(cause(message), wanted, "{message}");
        }
    }
}
