# For the checks alone: two installations in one account, the first with all that can be switched on. Never applied.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.45"
    }
  }
}

provider "aws" {
  region = "eu-central-1"
}

module "everything" {
  source = "../../terraform"

  prefix       = "all"
  config       = "${path.module}/config"
  packages     = "${path.module}/../../../target/package/arm64"
  architecture = "arm64"
  chains       = ["alpha", "beta"]

  pools = {
    gpu = {
      image             = "ami-0123456789abcdef0"
      instance_types    = ["g6.xlarge", "g5.xlarge", "g6e.xlarge"]
      slots             = 2
      min               = 1
      max               = 8
      on_demand_base    = 1
      on_demand_percent = 25
      gpu               = { compute_capability = 8.6, memory_gib = 24 }
    }
    cpu = {
      image          = "ami-0123456789abcdef1"
      instance_types = ["c7a.2xlarge"]
      max            = 4
    }
  }
  trusted = {
    image          = "ami-0123456789abcdef1"
    instance_types = ["c7a.xlarge", "c7i.xlarge"]
  }

  network = {
    vpc     = "vpc-0123456789abcdef0"
    subnets = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
  }
  sqs_endpoint        = true
  kms_key             = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000"
  proof_lock_days     = 365
  provisioned_pollers = 2
  concurrency         = 50
  alarm_topics        = ["arn:aws:sns:eu-central-1:123456789012:operators"]
  tags                = { team = "proofs" }
}

module "defaults" {
  source = "../../terraform"

  prefix   = "little"
  config   = "${path.module}/config"
  packages = "${path.module}/../../../target/package/x86_64"
  chains   = ["gamma"]

  pools = {
    cpu = {
      image          = "ami-0123456789abcdef1"
      instance_types = ["c7a.2xlarge"]
      max            = 1
    }
  }
  trusted = {
    image          = "ami-0123456789abcdef1"
    instance_types = ["c7a.large"]
    instances      = 1
  }
}
