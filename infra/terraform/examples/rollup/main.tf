# One rollup: a steady base of GPUs on demand, Spot above it, proofs that are locked, somebody who is woken.

provider "aws" {
  region = var.region
}

variable "region" {
  description = "Where: g6 and g6e are in most regions, g7e in few."
  type        = string
  default     = "us-east-1"
}

variable "prefix" {
  description = "What every name begins with; bucket names are shared with the whole world."
  type        = string
}

variable "gpu_image" {
  description = "The image that infra/packer made with a driver and your prover."
  type        = string
}

variable "cpu_image" {
  description = "The image that infra/packer made without a driver, with your prover: it splits and verifies."
  type        = string
}

variable "on_call" {
  description = "E-mail address that alarms go to."
  type        = string
}

variable "deletion_protection" {
  description = "false, and applied, before `terraform destroy`."
  type        = bool
  default     = true
}

resource "aws_sns_topic" "on_call" {
  name = "${var.prefix}-on-call"
}

resource "aws_sns_topic_subscription" "on_call" {
  topic_arn = aws_sns_topic.on_call.arn
  protocol  = "email"
  endpoint  = var.on_call
}

module "push0" {
  source = "../.."

  prefix   = var.prefix
  config   = "${path.module}/config"
  packages = "${path.module}/../../../../target/package/x86_64"
  chains   = ["rollup"]

  pools = {
    gpu = {
      image          = var.gpu_image
      instance_types = ["g6.4xlarge", "g6e.2xlarge", "g5.4xlarge", "g6.8xlarge"]
      gpu            = { compute_capability = 8.6, memory_gib = 24 }
      min            = 2
      on_demand_base = 2
      max            = 24
      disk_gib       = 200
    }
  }
  trusted = {
    image          = var.cpu_image
    instance_types = ["c7i.xlarge", "c7a.xlarge"]
  }

  provisioned_pollers = 2
  proof_lock_days     = 30
  alarm_topics        = [aws_sns_topic.on_call.arn]
  lag_blocks          = 8
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
