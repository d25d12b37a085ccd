# Against an emulator on 127.0.0.1:4566 (localstack/README.md). Emulators have no Auto Scaling to speak of: whether they take the pools is theirs to say;
# `push0 bootstrap` makes the rest without Terraform. Never tried: this needs the AWS provider, which is not on the machines that run the checks.

provider "aws" {
  region                      = "us-east-1"
  access_key                  = "test"
  secret_key                  = "test"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
  s3_use_path_style           = true

  endpoints {
    autoscaling = "http://127.0.0.1:4566"
    cloudwatch  = "http://127.0.0.1:4566"
    dynamodb    = "http://127.0.0.1:4566"
    ec2         = "http://127.0.0.1:4566"
    events      = "http://127.0.0.1:4566"
    iam         = "http://127.0.0.1:4566"
    lambda      = "http://127.0.0.1:4566"
    logs        = "http://127.0.0.1:4566"
    s3          = "http://127.0.0.1:4566"
    sqs         = "http://127.0.0.1:4566"
    sts         = "http://127.0.0.1:4566"
  }
}

module "push0" {
  source = "../.."

  prefix   = "push0"
  config   = "${path.module}/config"
  packages = "${path.module}/../../../../target/package/x86_64"
  chains   = ["demo"]

  pools = {
    cpu = {
      image          = "ami-00000000000000000"
      instance_types = ["c7i.large"]
      max            = 1
    }
  }
  trusted = {
    image          = "ami-00000000000000000"
    instance_types = ["c7i.large"]
    instances      = 1
  }
  deletion_protection = false
}

output "environment" {
  description = "For `eval`: what `push0` needs to know."
  value       = module.push0.environment
}
