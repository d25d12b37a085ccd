# A pool's instances: what they run, how many there are, and how they go without taking a proof with them.

terraform {
  required_providers {
    aws = {
      source = "hashicorp/aws"
    }
  }
}

variable "pool" {
  description = "Its name."
  type        = string
}

variable "spec" {
  description = "Image, instance types, how many of them, and what of them is on demand."
  type = object({
    image             = string
    instance_types    = list(string)
    slots             = number
    min_instances     = number
    max_instances     = number
    on_demand_base    = number
    on_demand_percent = number
    disk_gib          = number
  })
}

variable "scaling" {
  description = "Metrics and expressions of modules/scaling; null where the number of instances is fixed."
  type = object({
    metrics = list(object({
      id          = string
      namespace   = string
      metric_name = string
      dimensions  = map(string)
      stat        = string
    }))
    expressions = list(object({
      id         = string
      expression = string
    }))
    target = number
    from_zero = list(object({
      metrics = list(object({
        id          = string
        namespace   = string
        metric_name = string
        dimensions  = map(string)
        stat        = string
      }))
      expression = string
    }))
    steps = list(object({
      from      = number
      to        = number
      instances = number
    }))
  })
}

variable "shared" {
  description = "What is the same for all pools of an installation."
  type = object({
    prefix         = string
    subnets        = list(string)
    security_group = string
    drain_s        = number
    tags           = map(string)
    config         = map(string)
  })
}

variable "policy" {
  description = "What its workers may do, beside answering their group's hooks, as JSON."
  type        = string
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  name = "${var.shared.prefix}-${var.pool}"
  # Of the group itself, without waiting for it: the role comes first.
  group_arn = "arn:${data.aws_partition.current.partition}:autoscaling:${data.aws_region.current.region}:${data.aws_caller_identity.current.account_id}:autoScalingGroup:*:autoScalingGroupName/${local.name}"
  hooks     = { launch = "${var.shared.prefix}-launch", termination = "${var.shared.prefix}-termination" }
  environment = {
    PUSH0_CONNECT    = "aws"
    PUSH0_AWS_PREFIX = var.shared.prefix
    PUSH0_CONFIG     = "/etc/push0/push0.toml"
    PUSH0_POOL       = var.pool
    PUSH0_SLOTS      = tostring(var.spec.slots)
    PUSH0_EC2        = "on"
    PUSH0_EC2_GROUP  = local.name
    # So that the worker is done before its group is tired of waiting.
    PUSH0_EC2_DRAIN_S          = tostring(var.shared.drain_s)
    PUSH0_EC2_LAUNCH_HOOK      = local.hooks.launch
    PUSH0_EC2_TERMINATION_HOOK = local.hooks.termination
    AWS_REGION                 = data.aws_region.current.region
  }
  # The image has the worker and its unit in it: here it is only told which pool it is of, and started.
  user_data = {
    write_files = concat(
      [{
        path        = "/etc/push0/worker.env"
        permissions = "0644"
        content     = join("\n", [for name, value in local.environment : "${name}=${value}"])
      }],
      [for name, content in var.shared.config : {
        path        = "/etc/push0/${name}"
        permissions = "0644"
        encoding    = "b64"
        content     = content
      }],
    )
    runcmd = [["systemctl", "enable", "--now", "push0-worker.service"]]
  }
}

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "this" {
  name               = "${local.name}-worker"
  assume_role_policy = data.aws_iam_policy_document.assume.json
  tags               = var.shared.tags
}

resource "aws_iam_instance_profile" "this" {
  name = "${local.name}-worker"
  role = aws_iam_role.this.name
  tags = var.shared.tags
}

resource "aws_iam_role_policy" "work" {
  name   = "work"
  role   = aws_iam_role.this.id
  policy = var.policy
}

data "aws_iam_policy_document" "hooks" {
  statement {
    sid       = "AnswerOwnHooks"
    actions   = ["autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat"]
    resources = [local.group_arn]
  }
}

resource "aws_iam_role_policy" "hooks" {
  name   = "hooks"
  role   = aws_iam_role.this.id
  policy = data.aws_iam_policy_document.hooks.json
}

# A shell, without SSH and without a port.
resource "aws_iam_role_policy_attachment" "ssm" {
  role       = aws_iam_role.this.name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/AmazonSSMManagedInstanceCore"
}

resource "aws_launch_template" "this" {
  name                   = local.name
  image_id               = var.spec.image
  update_default_version = true
  user_data              = base64gzip("#cloud-config\n${yamlencode(local.user_data)}")
  vpc_security_group_ids = [var.shared.security_group]
  tags                   = var.shared.tags

  iam_instance_profile {
    arn = aws_iam_instance_profile.this.arn
  }
  # Provers cannot reach it from a container; the worker, on the host, can.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = var.spec.disk_gib
      encrypted             = true
      delete_on_termination = true
    }
  }
  dynamic "tag_specifications" {
    for_each = ["instance", "volume"]

    content {
      resource_type = tag_specifications.value
      tags          = merge(var.shared.tags, { Name = local.name, "push0:pool" = var.pool })
    }
  }

  lifecycle {
    precondition {
      condition     = length(base64gzip("#cloud-config\n${yamlencode(local.user_data)}")) <= 21848
      error_message = "push0.toml and what is beside it are too large for an instance's user data (16 KiB, compressed): put keys and provers into the image."
    }
  }
}

resource "aws_autoscaling_group" "this" {
  name                = local.name
  min_size            = var.spec.min_instances
  max_size            = var.spec.max_instances
  vpc_zone_identifier = var.shared.subnets
  # An instance on which Spot has its eye is replaced before it goes.
  capacity_rebalance        = var.spec.on_demand_percent < 100
  health_check_type         = "EC2"
  default_instance_warmup   = 120
  enabled_metrics           = ["GroupDesiredCapacity", "GroupInServiceInstances", "GroupPendingInstances", "GroupTerminatingInstances"]
  wait_for_capacity_timeout = "0"

  mixed_instances_policy {
    instances_distribution {
      on_demand_base_capacity                  = var.spec.on_demand_base
      on_demand_percentage_above_base_capacity = var.spec.on_demand_percent
      on_demand_allocation_strategy            = "prioritized"
      spot_allocation_strategy                 = "price-capacity-optimized"
    }
    launch_template {
      launch_template_specification {
        launch_template_id = aws_launch_template.this.id
        version            = aws_launch_template.this.latest_version
      }

      dynamic "override" {
        for_each = var.spec.instance_types

        content {
          instance_type = override.value
        }
      }
    }
  }

  # The worker completes it when its provers have passed their test; one that never comes up is replaced.
  initial_lifecycle_hook {
    name                 = local.hooks.launch
    lifecycle_transition = "autoscaling:EC2_INSTANCE_LAUNCHING"
    heartbeat_timeout    = 600
    default_result       = "ABANDON"
  }
  # The worker drains, with a heartbeat every 30 s, and completes it after its last report.
  initial_lifecycle_hook {
    name                 = local.hooks.termination
    lifecycle_transition = "autoscaling:EC2_INSTANCE_TERMINATING"
    heartbeat_timeout    = 300
    default_result       = "CONTINUE"
  }

  instance_refresh {
    strategy = "Rolling"

    preferences {
      min_healthy_percentage = 90
      auto_rollback          = true
    }
  }

  dynamic "tag" {
    for_each = merge(var.shared.tags, { Name = local.name })

    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = false
    }
  }

  lifecycle {
    # What scaling has come to is not undone by the next apply.
    ignore_changes = [desired_capacity]
  }

  depends_on = [aws_iam_role_policy.work, aws_iam_role_policy.hooks]
}

# Out and in, once somebody is there: the part of the pool that is needed.
resource "aws_autoscaling_policy" "track" {
  count = var.scaling == null ? 0 : 1

  name                   = "share"
  autoscaling_group_name = aws_autoscaling_group.this.name
  policy_type            = "TargetTrackingScaling"

  target_tracking_configuration {
    target_value = var.scaling.target

    customized_metric_specification {
      dynamic "metrics" {
        for_each = var.scaling.metrics

        content {
          id          = metrics.value.id
          return_data = false

          metric_stat {
            stat = metrics.value.stat

            metric {
              namespace   = metrics.value.namespace
              metric_name = metrics.value.metric_name

              dynamic "dimensions" {
                for_each = metrics.value.dimensions

                content {
                  name  = dimensions.key
                  value = dimensions.value
                }
              }
            }
          }
        }
      }
      dynamic "metrics" {
        for_each = var.scaling.expressions

        content {
          id          = metrics.value.id
          expression  = metrics.value.expression
          return_data = metrics.key == length(var.scaling.expressions) - 1
        }
      }
    }
  }
}

# From zero, which target tracking never leaves.
resource "aws_autoscaling_policy" "from_zero" {
  count = var.scaling == null ? 0 : 1

  name                    = "from-zero"
  autoscaling_group_name  = aws_autoscaling_group.this.name
  policy_type             = "StepScaling"
  adjustment_type         = "ExactCapacity"
  metric_aggregation_type = "Maximum"

  dynamic "step_adjustment" {
    for_each = var.scaling.steps

    content {
      metric_interval_lower_bound = step_adjustment.value.from
      metric_interval_upper_bound = step_adjustment.value.to
      scaling_adjustment          = min(step_adjustment.value.instances, var.spec.max_instances)
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "from_zero" {
  count = var.scaling == null ? 0 : length(var.scaling.from_zero)

  alarm_name          = "${local.name}-from-zero-${count.index}"
  alarm_description   = "Work and nobody wanted for it: instances are started. No action is needed."
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_autoscaling_policy.from_zero[0].arn]
  tags                = var.shared.tags

  dynamic "metric_query" {
    for_each = var.scaling.from_zero[count.index].metrics

    content {
      id          = metric_query.value.id
      return_data = false

      metric {
        namespace   = metric_query.value.namespace
        metric_name = metric_query.value.metric_name
        dimensions  = metric_query.value.dimensions
        stat        = metric_query.value.stat
        period      = 60
      }
    }
  }
  metric_query {
    id          = "from_zero"
    label       = "tasks that nobody is wanted for"
    expression  = var.scaling.from_zero[count.index].expression
    return_data = true
  }
}

output "group" {
  description = "Name of its Auto Scaling group."
  value       = aws_autoscaling_group.this.name
}

output "role" {
  description = "ARN of its workers' role."
  value       = aws_iam_role.this.arn
}
