# What a pool is scaled on: metrics and the expression over them, without a provider, so that they can be evaluated in a test.
#
# Work is what lies in the pool's queues and what workers hold: a worker keeps its message until its proof is stored, so that tasks being
# proven are the messages that are not visible. To look at the visible ones alone would take busy workers for idle ones, and end them in
# the middle of a proof. What becomes ready next is no message yet: while a chain has blocks released and not final, at least one instance stays.

variable "queues" {
  description = "Names in the account of the pool's work queues."
  type        = list(string)
}

variable "group" {
  description = "Name of the pool's Auto Scaling group."
  type        = string
}

variable "namespace" {
  description = "CloudWatch namespace of the functions' metrics: the installation's prefix."
  type        = string
}

variable "chains" {
  description = "Chains whose unfinished blocks keep an instance."
  type        = list(string)
}

variable "tasks_per_instance" {
  description = "Tasks, waiting and being proven, for which one instance is enough."
  type        = number

  validation {
    condition     = var.tasks_per_instance > 0
    error_message = "One instance must be enough for something: more than 0 tasks."
  }
}

locals {
  counts = flatten([
    for at, queue in var.queues : [
      for letter, metric in { w = "ApproximateNumberOfMessagesVisible", r = "ApproximateNumberOfMessagesNotVisible" } : {
        id                      = "${letter}${at}"
        namespace               = "AWS/SQS"
        metric_name             = metric
        dimensions              = { QueueName = queue }
        stat                    = "Maximum"
      }
    ]
  ])
  unfinished = [
    for at, chain in var.chains : {
      id          = "u${at}"
      namespace   = var.namespace
      metric_name = "push0_blocks_unfinished_count"
      dimensions  = { chain = chain }
      stat        = "Maximum"
    }
  ]
  instances = {
    id          = "instances"
    namespace   = "AWS/AutoScaling"
    metric_name = "GroupInServiceInstances"
    dimensions  = { AutoScalingGroupName = var.group }
    stat        = "Average"
  }

  # A queue that was idle for hours has no counts: none is 0.
  tasks  = join(" + ", [for count in local.counts : "FILL(${count.id}, 0)"])
  blocks = length(local.unfinished) == 0 ? "0" : join(" + ", [for count in local.unfinished : "FILL(${count.id}, 0)"])
  # A task's worth for blocks that are not final, so that the last instance stays between two stages.
  work = "IF(${local.tasks} > 0, ${local.tasks}, IF(${local.blocks} > 0, 1, 0))"
}

output "metrics" {
  description = "The metrics that the expressions are over."
  value       = concat(local.counts, local.unfinished, [local.instances])
}

output "per_instance" {
  description = "For target tracking, against `tasks_per_instance`: work for each instance in service. With none in service it is all of it."
  value       = "(${local.work}) / IF(FILL(instances, 0) < 1, 1, instances)"
}

output "from_zero" {
  description = "For the step policy: work that nobody is there for. Target tracking never leaves zero."
  value       = "IF(FILL(instances, 0) < 1, ${local.work}, 0)"
}

output "steps" {
  description = "Instances for so much work that nobody is there for: from and to which amount (null: without end), and how many."
  value = [
    { from = 0, to = var.tasks_per_instance, add = 1 },
    { from = var.tasks_per_instance, to = 4 * var.tasks_per_instance, add = 4 },
    { from = 4 * var.tasks_per_instance, to = null, add = 16 },
  ]
}

output "tasks_per_instance" {
  description = "What `per_instance` is held to."
  value       = var.tasks_per_instance
}
