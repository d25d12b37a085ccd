# Three chains on the same pools, in a network that is there already, encrypted with a key of your own.

provider "aws" {
  region = var.region
}

variable "region" {
  description = "Where."
  type        = string
  default     = "eu-central-1"
}

variable "prefix" {
  description = "What every name begins with; bucket names are shared with the whole world."
  type        = string
}

variable "image" {
  description = "The machine image that infra/packer made."
  type        = string
}

variable "network" {
  description = "VPC and private subnets."
  type = object({
    vpc     = string
    subnets = list(string)
  })
}

variable "kms_key" {
  description = "ARN of the key; its policy must let S3 use it (README, Encryption)."
  type        = string
}

variable "deletion_protection" {
  description = "false, and applied, before `terraform destroy`."
  type        = bool
  default     = true
}

module "push0" {
  source = "../.."

  prefix   = var.prefix
  config   = "${path.module}/config"
  packages = "${path.module}/../../../../target/package/arm64"
  chains   = ["mainnet", "testnet", "backfill"]

  architecture = "arm64"
  network      = var.network
  sqs_endpoint = true
  kms_key      = var.kms_key

  pools = {
    cpu = {
      image             = var.image
      instance_types    = ["c7i.2xlarge", "c7a.2xlarge", "m7i.2xlarge"]
      slots             = 2
      min               = 1
      on_demand_base    = 1
      on_demand_percent = 25
      max               = 16
    }
  }
  trusted = {
    image          = var.image
    instance_types = ["c7i.large", "c7a.large"]
  }
  deletion_protection = var.deletion_protection
}

output "environment" {
  description = "For `eval`: what `push0` needs to know."
  value       = module.push0.environment
}

output "dashboard" {
  description = "Where the dashboard is."
  value       = module.push0.dashboard
}
