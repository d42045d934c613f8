;; Answers for an output that the rule does not have.
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (call $answer (local.get $count) (i32.const 7) (global.get $values) (i32.const 2)))
