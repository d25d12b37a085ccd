# infra/topology.json, written out for one installation: no provider, no resource, so that `terraform test` can look at it.

variable "prefix" {
  description = "What every name in the account begins with."
  type        = string
}

variable "pools" {
  description = "Pools of workers, the trusted one among them: each has a work queue of each class."
  type        = set(string)
}

locals {
  topology = jsondecode(file("${path.module}/../../../topology.json"))
  # In the order of urgency.
  classes = ["realtime", "standard", "bulk"]

  fills = concat(
    [{ pool = "", class = "" }],
    [for pair in setproduct(sort(var.pools), local.classes) : { pool = pair[0], class = pair[1] }],
  )
  # What is not a pattern is written out once, what is one for every pool and class.
  queues = merge([
    for queue in local.topology.queues : {
      for fill in local.fills :
      replace(replace(queue.name, "{pool}", fill.pool), "{class}", fill.class) => {
        name         = "${var.prefix}-${replace(replace(queue.name, "{pool}", fill.pool), "{class}", fill.class)}"
        pool         = fill.pool
        class        = fill.class
        is_fifo      = queue.kind == "fifo"
        visibility_s = queue.visibility_s
        retention_s  = queue.retention_s
        # null on a standard queue.
        deduplication_scope = try(queue.fifo.deduplication_scope, null)
        throughput_limit    = try(queue.fifo.throughput_limit, null)
        # Names without prefix; null where there is none.
        dead_letter_queue = try(replace(replace(queue.dead_letter.queue, "{pool}", fill.pool), "{class}", fill.class), null)
        max_receives      = try(queue.dead_letter.max_receives, null)
        dead_letters_of   = try(replace(replace(queue.dead_letters_of, "{pool}", fill.pool), "{class}", fill.class), null)
      } if(length(regexall("{", queue.name)) > 0) == (fill.pool != "")
    }
  ]...)

  functions = { for function in local.topology.functions : function.name => function }

  sources = merge([
    for function in local.topology.functions : merge([
      for source in function.sources : {
        for fill in local.fills :
        "${function.name}/${replace(replace(source.queue, "{pool}", fill.pool), "{class}", fill.class)}" => {
          function = function.name
          queue    = replace(replace(source.queue, "{pool}", fill.pool), "{class}", fill.class)
          batch    = source.batch
        } if(length(regexall("{", source.queue)) > 0) == (fill.pool != "")
      }
    ]...)
  ]...)
}

output "queues" {
  description = "Every queue, by its name without prefix."
  value       = local.queues
}

output "functions" {
  description = "Every function, by its name without prefix."
  value       = local.functions
}

output "sources" {
  description = "Which function takes from which queue, and how many messages at a time, by `function/queue`."
  value       = local.sources
}

output "tables" {
  description = "Every table, by its name without prefix."
  value       = { for table in local.topology.tables : table.name => table }
}

output "buckets" {
  description = "Every bucket, by its name without prefix."
  value       = { for bucket in local.topology.buckets : bucket.name => bucket }
}

output "classes" {
  description = "Classes of urgency, the most urgent first."
  value       = local.classes
}
