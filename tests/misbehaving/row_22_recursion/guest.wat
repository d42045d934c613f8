;; Calls itself until the stack ends.
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (call $forward (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
