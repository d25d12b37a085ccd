variables {
  queues             = ["push0-work-gpu-realtime", "push0-work-gpu-standard", "push0-work-gpu-bulk"]
  group              = "push0-gpu"
  namespace          = "push0"
  chains             = ["demo"]
  tasks_per_instance = 3
}

run "what_workers_hold_is_counted_as_well_as_what_waits" {
  command = plan

  assert {
    condition     = alltrue([for count in output.metrics : strcontains(output.per_instance, count.id) && strcontains(output.from_zero, count.id)])
    error_message = "A metric is asked for and not used."
  }
  assert {
    condition = alltrue([for queue in var.queues : length([
      for count in output.metrics : count if try(count.dimensions.QueueName, "") == queue
    ]) == 2])
    error_message = "Of each queue both counts are needed: a busy pool's queues are empty."
  }
}

run "steps_leave_no_gap" {
  command = plan

  assert {
    condition     = output.steps[0].from == 0 && output.steps[0].to == output.steps[1].from && output.steps[1].to == output.steps[2].from && output.steps[2].to == null
    error_message = "Each step begins where the one before ends, and the last has no end."
  }
}

run "a_pool_without_chains_is_scaled_on_tasks_alone" {
  command = plan

  variables {
    chains = []
  }

  assert {
    condition     = strcontains(output.per_instance, "IF(0 > 0, 1, 0)")
    error_message = "Without chains no block keeps an instance."
  }
}

run "an_instance_has_to_be_enough_for_something" {
  command = plan

  variables {
    tasks_per_instance = 0
  }

  expect_failures = [var.tasks_per_instance]
}
