# The machine image of a pool's workers: Amazon Linux 2023, push0, your provers, and for GPUs NVIDIA's driver. Nothing is fetched when an instance
# starts, so that it is there soon and is what was tested.

packer {
  required_version = ">= 1.11"

  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = "~> 1.3"
    }
  }
}

variable "region" {
  description = "Where the image is made and used."
  type        = string
}

variable "gpu" {
  description = "Whether it is for instances with NVIDIA GPUs."
  type        = bool
  default     = false
}

variable "instance_type" {
  description = "On which it is made: with a GPU, so that the driver is tried."
  type        = string
  default     = ""
}

variable "push0" {
  description = "The program, built with AWS in it (README)."
  type        = string
  default     = "../../target/release/push0"
}

variable "provers" {
  description = "Programs of your provers, and whatever files they need (keys, ELFs); all go to /usr/local/bin."
  type        = list(string)
  default     = ["../../target/release/push0-rollup", "../../target/release/push0-echo"]
}

locals {
  # AWS's own image with driver and CUDA's libraries, or plain Amazon Linux.
  source = var.gpu ? "Deep Learning Base OSS Nvidia Driver GPU AMI (Amazon Linux 2023) *" : "al2023-ami-2023.*-x86_64"
  type   = var.instance_type != "" ? var.instance_type : (var.gpu ? "g6.xlarge" : "c7i.large")
  name   = var.gpu ? "push0-worker-gpu" : "push0-worker"
}

source "amazon-ebs" "worker" {
  region        = var.region
  instance_type = local.type
  ami_name      = "${local.name}-${formatdate("YYYYMMDD-hhmmss", timestamp())}"
  ssh_username  = "ec2-user"
  ssh_interface = "session_manager"
  imds_support  = "v2.0"

  # For a shell by SSM, as on the instances later: no port is opened.
  temporary_iam_instance_profile_policy_document {
    Version = "2012-10-17"
    Statement {
      Effect   = "Allow"
      Action   = ["ssm:UpdateInstanceInformation", "ssmmessages:*", "ec2messages:*"]
      Resource = ["*"]
    }
  }
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  source_ami_filter {
    owners      = ["amazon"]
    most_recent = true

    filters = {
      name                = local.source
      architecture        = "x86_64"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
  }
  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_type           = "gp3"
    volume_size           = var.gpu ? 80 : 20
    delete_on_termination = true
  }
}

build {
  sources = ["source.amazon-ebs.worker"]

  provisioner "shell" {
    inline = ["mkdir -p /tmp/push0"]
  }
  provisioner "file" {
    sources     = concat([var.push0], var.provers, ["${path.root}/push0-worker.service"])
    destination = "/tmp/push0/"
  }
  provisioner "shell" {
    execute_command  = "sudo env {{ .Vars }} bash -euo pipefail '{{ .Path }}'"
    environment_vars = ["GPU=${var.gpu}"]
    script           = "${path.root}/install.sh"
  }
}
