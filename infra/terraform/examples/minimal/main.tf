# The smallest push0 in an account: one chain, a pool of CPU instances that is empty while there is nothing to prove. No GPU quota is needed.

provider "aws" {
  region = var.region
}

variable "region" {
  description = "Where."
  type        = string
  default     = "us-east-1"
}

variable "prefix" {
  description = "What every name begins with; bucket names are shared with the whole world."
  type        = string
}

variable "image" {
  description = "The machine image that infra/packer made."
  type        = string
}

module "push0" {
  source = "../.."

  prefix   = var.prefix
  config   = "${path.module}/config"
  packages = "${path.module}/../../../../target/package/x86_64"
  chains   = ["demo"]

  pools = {
    cpu = {
      image          = var.image
      instance_types = ["c7i.xlarge", "c7a.xlarge", "m7i.xlarge", "m7a.xlarge"]
      max            = 4
    }
  }
  trusted = {
    image          = var.image
    instance_types = ["c7i.large", "c7a.large"]
    instances      = 1
  }
  # Everything may go with `terraform destroy`.
  deletion_protection = false
}

output "environment" {
  description = "For `eval`: what `push0` needs to know."
  value       = module.push0.environment
}

output "dashboard" {
  description = "Where the dashboard is."
  value       = module.push0.dashboard
}
