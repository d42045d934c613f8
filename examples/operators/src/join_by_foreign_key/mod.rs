//! Join by foreign key: `visit.city_id` becomes the city's name. Law: green's rows are blue's visits, each with its city's
//! name; a city without visits stays on blue alone. Decomposing by foreign key, the other way round.

use falkirk_sdk::{Creates, Step};

pub fn rules(step: &mut Step) {
    let city = step.map("city", "city.id", "visit.city", Creates::Blue);
    step.forward("city").bind(city, "id", "name");
    step.forward("visit").output("visit", |to| to.same_named().mapped("city", city.of("city_id")));
    step.backward("visit")
        .output("city", |to| to.ensure().mapped("id", city.of("city")).copied("name", "city"))
        .output("visit", |to| to.same_named().mapped("city_id", city.of("city")));
}
