# What a pool is scaled on: metrics and the expressions over them, without a provider, so that they can be evaluated in a test.
#
# A worker keeps its message until its proof is stored: tasks being proven are messages that are not visible. To look at the visible ones alone
# would take busy workers for idle ones, and end them in the middle of a proof. What becomes ready later is no message yet. The reaper counts the
# tasks that wait for nothing but what other pools have in hand, so that their pool is there by then; what a pool waits for of itself goes to the
# slots that its inputs set free. And while any run goes on, which a delayed message of `timers` says, an instance stays.

variable "queues" {
  description = "Names in the account of the pool's work queues."
  type        = list(string)
}

variable "timers" {
  description = "Name in the account of the queue of timers: each run that goes on has one there."
  type        = string
}

variable "pool" {
  description = "Name of the pool in push0's configuration."
  type        = string
}

variable "namespace" {
  description = "Namespace of push0's own metrics."
  type        = string
}

variable "group" {
  description = "Name of the pool's Auto Scaling group."
  type        = string
}

variable "slots" {
  description = "Proofs at a time on an instance."
  type        = number

  validation {
    condition     = var.slots >= 1
    error_message = "An instance proves at least one at a time."
  }
}

variable "tasks_per_instance" {
  description = "Tasks, waiting and being proven, for which one instance is enough."
  type        = number

  validation {
    condition     = var.tasks_per_instance >= var.slots
    error_message = "Fewer tasks than an instance has slots would ask for another instance while all that there are can be proven at once."
  }
}

locals {
  waiting = [for at, queue in var.queues : {
    id          = "w${at}"
    namespace   = "AWS/SQS"
    metric_name = "ApproximateNumberOfMessagesVisible"
    dimensions  = { QueueName = queue }
    stat        = "Maximum"
  }]
  held = [for at, queue in var.queues : {
    id          = "h${at}"
    namespace   = "AWS/SQS"
    metric_name = "ApproximateNumberOfMessagesNotVisible"
    dimensions  = { QueueName = queue }
    stat        = "Maximum"
  }]
  runs = {
    id          = "runs"
    namespace   = "AWS/SQS"
    metric_name = "ApproximateNumberOfMessagesDelayed"
    dimensions  = { QueueName = var.timers }
    stat        = "Maximum"
  }
  soon = {
    id          = "soon"
    namespace   = var.namespace
    metric_name = "push0_tasks_soon_count"
    dimensions  = { pool = var.pool }
    stat        = "Maximum"
  }
  instances = {
    id          = "instances"
    namespace   = "AWS/AutoScaling"
    metric_name = "GroupInServiceInstances"
    dimensions  = { AutoScalingGroupName = var.group }
    stat        = "Average"
  }
  desired = {
    id          = "desired"
    namespace   = "AWS/AutoScaling"
    metric_name = "GroupDesiredCapacity"
    dimensions  = { AutoScalingGroupName = var.group }
    stat        = "Maximum"
  }

  holds = join(" + ", local.held[*].id)
  tasks = join(" + ", concat(local.waiting[*].id, local.held[*].id))
  # Each is a part of the instances that are there: 1 is just as many.
  expressions = [
    { id = "there", expression = "IF(instances < 1, 1, instances)" },
    # A slot that fetches ahead holds more than it proves: no more can be busy than there are.
    { id = "busy", expression = "IF(${local.holds} < ${var.slots} * there, (${local.holds}) / (${var.slots} * there), 1)" },
    { id = "wanted", expression = "(${local.tasks} + FILL(soon, 0)) / (${var.tasks_per_instance} * there)" },
    { id = "last", expression = "IF(runs > 0, 1 / there, 0)" },
    { id = "share", expression = "IF(busy > wanted, IF(busy > last, busy, last), IF(wanted > last, wanted, last))" },
  ]
}

# No FILL(…, 0) of queues' counts: CloudWatch's newest minute often has none yet, and filled with zeros it looks like a pool with nothing to do. A
# minute that lacks one has no value, and alarms look at the minutes that have. What is soon ready is told by the reaper alone: a pool shall scale
# without it.

output "metrics" {
  description = "The metrics that `expressions` are over. Workers ask all queues of their pool all the time: while one is there, all have counts."
  value       = concat(local.waiting, local.held, [local.soon, local.runs, local.instances])
}

output "expressions" {
  description = "For target tracking, each over those before it. The last is the part of the pool that is needed: as many as are busy are never too many."
  value       = local.expressions
}

output "target" {
  description = "What the last of `expressions` is held to."
  value       = 1
}

output "from_zero" {
  description = "For the step policy, of each work queue and of what is soon ready: tasks that nobody is wanted for. Target tracking cannot leave zero, and a queue that nobody asked for hours has no counts, so each has an alarm of its own."
  value = [for work in concat(local.waiting, [local.soon]) : {
    metrics    = [work, local.desired]
    expression = "IF(desired < 1, ${work.id}, 0)"
  }]
}

output "steps" {
  description = "Instances for so many tasks that nobody is wanted for: from and to which number (null: without end), and how many."
  value = [
    { from = 0, to = var.tasks_per_instance, instances = 1 },
    { from = var.tasks_per_instance, to = 4 * var.tasks_per_instance, instances = 4 },
    { from = 4 * var.tasks_per_instance, to = null, instances = 16 },
  ]
}
